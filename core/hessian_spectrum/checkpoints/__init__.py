"""Directories with a config.json and safetensors files: what they hold, read without torch and without running code."""
