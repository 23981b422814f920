"""A JumpReLU SAE as a plain PyTorch module, from the formulas of arXiv 2407.14435, section 2."""

import torch


class JumpReLUSAE(torch.nn.Module):
    """Reads raw activations; the threshold is compared with the pre-activation."""

    def __init__(self, W_enc, b_enc, W_dec, b_dec, threshold):
        super().__init__()
        named = dict(W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec, threshold=threshold)
        for name, array in named.items():
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(array)))

    def pre(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.W_enc + self.b_enc

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.pre(x)
        return torch.relu(pre) * (pre > self.threshold)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.W_dec + self.b_dec
