"""ondevice: run compressed click-through-rate models on phones and small boards."""
