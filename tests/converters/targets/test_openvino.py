"""The .onnx in OpenVINO, where it is installed: the scores of torch for IDs below 2**31."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from ondevice.converters import convert
from ondevice.models import AdaptiveMask, BinaryCodeEmbedding, FullEmbedding

openvino = pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")


class Clicks(nn.Module):
    """Merged codes, of which some rows are cut, a plain table, a history, and layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        codes = [
            BinaryCodeEmbedding(8, 32, 11, multiplier=0x9E3779B97F4A7C15, padding_id=None),
            BinaryCodeEmbedding(8, 20, 7, padding_id=None),
            BinaryCodeEmbedding(8, 24, 8, multiplier=5, padding_id=None),
        ]
        rng = np.random.default_rng(0)
        for table in codes:
            nn.init.normal_(table.weight)
            widths = rng.integers(1, 9, table.spec.rows)
            table.mask = AdaptiveMask.from_widths(widths, 8)
        self.codes = nn.ModuleList(codes)
        self.shop, self.steps = FullEmbedding(300, 8), nn.Embedding(50, 8)
        self.head = nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user, item, seller, shop, history):
        parts = [table(ids) for table, ids in zip(self.codes, (user, item, seller), strict=True)]
        parts += [self.shop(shop), self.steps(history).mean(1)]
        return torch.sigmoid(self.head(torch.cat(parts, 1))).squeeze(-1)


@pytest.mark.parametrize("inputs", ["named", "matrix"])
def test_scores_equal_torch(inputs, tmp_path):
    rng, module = np.random.default_rng(1), Clicks().eval()
    ids = {name: rng.integers(0, 2**31, 40) for name in ("user", "item", "seller")}
    ids |= {"shop": rng.integers(0, 400, 40), "history": rng.integers(0, 50, (40, 5))}
    tensors = {name: torch.from_numpy(values) for name, values in ids.items()}
    example = {name: values[:4] for name, values in tensors.items()}
    convert(module, example, tmp_path, targets=("onnx",), tables="f32", inputs=inputs)
    with torch.inference_mode():
        expected = module(**tensors).numpy()
    if inputs == "matrix":
        columns = [ids.pop(name) for name in ("user", "item", "seller", "shop")]
        ids = {"ids": np.stack(columns, 1), **ids}
    path = tmp_path / "model.onnx"
    np.testing.assert_allclose(
        onnxruntime.InferenceSession(path).run(None, ids)[0], expected, atol=1e-6
    )
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(model(ids)[0], expected, atol=1e-5)
