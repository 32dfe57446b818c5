"""From a module or an .onnx file to a graph: inputs, export, and what cleans the graph up."""
