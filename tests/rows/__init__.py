"""Tests of rows in and out."""
