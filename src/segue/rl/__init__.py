"""Reinforcement learning: learners compiled in JAX, replay buffers, and the switch from offline to online."""
