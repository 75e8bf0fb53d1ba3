"""Networks in ONNX files: bounded before they are parsed, and lowered operator by operator onto a program."""
