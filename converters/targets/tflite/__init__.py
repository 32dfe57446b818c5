"""Writes .tflite: lookups and operators in the profile of tflite-runtime and LiteRT."""
