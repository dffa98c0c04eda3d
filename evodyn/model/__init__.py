"""What is simulated: dynamics and landscapes, pure functions of time and masses."""
