"""Entry points and wiring. Only here are the environment and the clock read."""
