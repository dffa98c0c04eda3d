"""What selection is compared with: gates that are learnt, and rankings of a network that is trained."""
