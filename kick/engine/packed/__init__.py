"""Packed forwards: many rows in one, shared beginnings computed once, and when that can be trusted."""
