"""Networks that shed what they do not need while they train."""
