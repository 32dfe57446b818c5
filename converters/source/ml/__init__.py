"""Operators of the domain ai.onnx.ml, as scikit-learn, LightGBM and XGBoost export them."""
