"""Tests of the example, which go with it."""
