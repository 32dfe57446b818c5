"""The emitters: one packed model to .odm, .onnx and .tflite."""
