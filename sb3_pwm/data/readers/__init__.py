"""Readers of the formats that offline data comes in. Each is an iterator of episodes."""
