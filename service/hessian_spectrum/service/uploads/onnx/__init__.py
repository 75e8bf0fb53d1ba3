"""Networks in ONNX files: limited in size before they are parsed, and lowered to a program operator by operator."""
