"""Losses on images: their algebra, schedules and balance, and what those that look through a network share."""
