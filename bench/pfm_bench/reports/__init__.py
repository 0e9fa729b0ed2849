"""Measurements as JSON, tables and pictures, and two of them compared."""
