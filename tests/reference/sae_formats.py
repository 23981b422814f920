"""SAEs of every format: random weights in the exact layout on the disk, and what they compute.

Each case writes its files and returns the formula of its makers in float64, from the raw tensors,
one line as in their code. Nothing here knows how probejax reads or represents an SAE.
"""

import json

import numpy as np
import torch
from safetensors.torch import save_file

D, M, K = 12, 40, 5
GROUPS = 8  # groupmax needs k to divide M


def relu(z):
    return np.maximum(z, 0.0)


def jump(z, t):
    return np.where(z > t, relu(z), 0.0)


def top(z, k, by=None):
    """Keeps the k largest of each row, by another array where one is given."""
    order = np.argsort(-(z if by is None else by), axis=1, kind="stable")[:, :k]
    kept = np.zeros(z.shape, bool)
    np.put_along_axis(kept, order, True, axis=1)
    return np.where(kept, z, 0.0)


class Weights:
    """Draws tensors; `w` and friends are float64 copies of what was written."""

    def __init__(self, seed, dtype=torch.float32):
        self.rng, self.dtype = np.random.default_rng(seed), dtype

    def normal(self, *shape, scale=1.0, dtype=None):
        drawn = torch.tensor(self.rng.normal(size=shape) * scale, dtype=dtype or self.dtype)
        return drawn, drawn.to(torch.float64).numpy()

    def encoder(self, *shape):
        return self.normal(*shape, scale=D**-0.5)

    def threshold(self, *shape):
        """Positive but for every seventh."""
        drawn = np.exp(0.5 * self.rng.normal(size=shape)) * 0.6
        drawn[::7] *= -1
        drawn = torch.tensor(drawn, dtype=torch.float32)
        return drawn, drawn.to(torch.float64).numpy()


def _write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def gemma_scope(folder, lower=False):
    draw = Weights(1)
    We, we = draw.encoder(D, M)
    be, b = draw.normal(M)
    Wd, wd = draw.normal(M, D)
    bd, c = draw.normal(D)
    th, t = draw.threshold(M)
    arrays = dict(W_enc=We, b_enc=be, W_dec=Wd, b_dec=bd, threshold=th)
    if lower:
        arrays = {k.lower() if k[0] == "W" else k: v for k, v in arrays.items()}
    path = folder / "layer_20" / "width_40" / "average_l0_11"
    path.mkdir(parents=True, exist_ok=True)
    np.savez(path / "params.npz", **{k: v.numpy() for k, v in arrays.items()})
    return path, lambda x: (f := jump(x @ we + b, t), f @ wd + c)


def gemma_scope_2(folder):
    draw = Weights(2)
    We, we = draw.encoder(D, M)
    be, b = draw.normal(M)
    Wd, wd = draw.normal(M, D)
    bd, c = draw.normal(D)
    th, t = draw.threshold(M)
    hook = "model.layers.9.output"
    _write(folder, "config.json", dict(
        hf_hook_point_in=hook, hf_hook_point_out=hook, width=M, model_name="google/gemma-3-270m-pt",
        architecture="jump_relu", l0=60, affine_connection=False, type="sae",
    ))  # fmt: skip
    save_file(
        dict(w_enc=We, b_enc=be, w_dec=Wd, b_dec=bd, threshold=th), folder / "params.safetensors"
    )
    return folder, lambda x: (f := jump(x @ we + b, t), f @ wd + c)


def llama_scope(folder, mode):
    draw = Weights(3, torch.bfloat16)
    W, w = draw.encoder(M, D)
    be, b = draw.normal(M)
    Dc, dec = draw.normal(D, M, scale=0.4)
    bd, c = draw.normal(D)
    t, norm = 0.35546875, 10.8125
    _write(folder, "hyperparams.json", dict(
        d_model=D, d_sae=M, hook_point_in="blocks.15.hook_resid_post",
        hook_point_out="blocks.15.hook_resid_post", act_fn="jumprelu", jump_relu_threshold=t,
        norm_activation="dataset-wise", dataset_average_activation_norm={"in": norm, "out": norm},
        sparsity_include_decoder_norm=True, use_decoder_bias=True, use_glu_encoder=False,
        apply_decoder_bias_to_pre_encoder=False, top_k=50, dtype="torch.bfloat16",
    ))  # fmt: skip
    (folder / "checkpoints").mkdir(exist_ok=True)
    names = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    save_file(
        dict(zip(names, (W, be, Dc, bd), strict=True)), folder / "checkpoints" / "final.safetensors"
    )
    s = np.sqrt(D) / norm

    def reference(x):
        b_E, b_D, W_D = b / s, c / s, dec * (s / s)
        n = np.linalg.norm(W_D, axis=0)
        W_D, W_E, b_E = W_D / n, w * n[:, None], b_E * n
        h = x @ W_E.T + b_E
        f = np.where(h > t, h, 0)
        return f, f @ W_D.T + b_D

    def sae_lens(x):
        threshold = t * s if mode == "saelens" else t
        f = jump(x @ (w.T * s) + b, threshold)
        return f, f @ (dec.T / s) + c / s

    return folder, reference if mode == "reference" else sae_lens


def openmoss_r1(folder, norm_included):
    draw = Weights(4)
    W, w = draw.encoder(M, D)
    be, b = draw.normal(M)
    Dc, dec = draw.normal(D, M, scale=0.4)
    bd, c = draw.normal(D)
    lt, log_t = draw.normal(M, scale=0.5)
    hook, norm = "blocks.11.hook_resid_post", 5.5
    _write(folder, "config.json", dict(
        d_model=D, expansion_factor=8, hook_point_in=hook, act_fn="jumprelu",
        sparsity_include_decoder_norm=norm_included,
    ))  # fmt: skip
    tensors = {"encoder.weight": W, "encoder.bias": be, "decoder.weight": Dc, "decoder.bias": bd}
    tensors |= {"log_jumprelu_threshold": lt}
    tensors |= {f"dataset_average_activation_norm.{hook}": torch.tensor(norm)}
    save_file(tensors, folder / "sae_weights.safetensors")
    s, n = np.sqrt(D) / norm, np.linalg.norm(dec, axis=0) if norm_included else np.ones(M)

    def forward(x):
        z = s * (x @ w.T) + b
        f = jump(z * n, np.exp(log_t)) / n
        return f, (f @ dec.T + c) / s

    return folder, forward


def openmoss_native(folder, act):
    draw = Weights(5)
    W, w = draw.encoder(D, M)
    be, b = draw.normal(M)
    Dc, dec = draw.normal(M, D, scale=0.4)
    bd, c = draw.normal(D)
    hook, norm = "blocks.12.hook_resid_post", 7.25
    _write(folder, "config.json", dict(
        d_model=D, hook_point_in=hook, hook_point_out=hook, act_fn=act, top_k=K,
        norm_activation="dataset-wise", sparsity_include_decoder_norm=True,
    ))  # fmt: skip
    tensors = dict(W_E=W, b_E=be, W_D=Dc, b_D=bd)
    tensors |= {f"dataset_average_activation_norm.{hook}": torch.tensor(norm)}
    save_file(tensors, folder / "sae_weights.safetensors")
    s, n = np.sqrt(D) / norm, np.linalg.norm(dec, axis=1)
    act_fn = relu if act == "relu" else lambda z: relu(top(z, K))

    def forward(x):
        f = act_fn((s * x @ w + b) * n) / n
        return f, (f @ dec + c) / s

    return folder, forward


def _sae_lens(folder, config, tensors):
    _write(folder, "cfg.json", config)
    save_file(tensors, folder / "sae_weights.safetensors")


def _v6(architecture, **fields):
    return dict(
        d_in=D, d_sae=M, dtype="float32", device="cpu", apply_b_dec_to_input=True,
        normalize_activations="none", reshape_activations="none", architecture=architecture,
        metadata=dict(  # all that its training runner writes
            sae_lens_version="6.54.12", sae_lens_training_version="6.54.12", dataset_path="x",
            hook_name="blocks.12.hook_resid_post", model_name="gemma-2-2b",
            model_class_name="HookedTransformer", hook_head_index=None, context_size=1024,
            seqpos_slice=[None], model_from_pretrained_kwargs={"center_writing_weights": False},
            prepend_bos=True, exclude_special_tokens=False, sequence_separator_token="bos",
            disable_concat_sequences=False,
        ), **fields,
    )  # fmt: skip


def sae_lens_old(folder):
    """Version 5: flat, standard, b_dec subtracted by default, a scaling factor in decode only."""
    draw = Weights(6)
    We, we = draw.encoder(D, M)
    be, b = draw.normal(M)
    Wd, wd = draw.normal(M, D)
    bd, c = draw.normal(D)
    sf, scaling = draw.normal(M, scale=0.1)
    config = dict(d_in=D, d_sae=M, hook_point="blocks.8.hook_resid_pre", model_name="gpt2-small")
    tensors = dict(W_enc=We, b_enc=be, W_dec=Wd, b_dec=bd, scaling_factor=sf + 1)
    _sae_lens(folder, config, tensors)
    factor = tensors["scaling_factor"].to(torch.float64).numpy()
    assert not np.allclose(factor, scaling)
    return folder, lambda x: (f := relu((x - c) @ we + b), (f * factor) @ wd + c)


def sae_lens(folder, architecture, normalise="none", *, centred=False, **fields):
    """Version 6, every architecture and normalisation; `centred` of a residual without its mean."""
    draw = Weights(7)
    We, we = draw.encoder(D, M)
    be, b = draw.normal(M)
    Wd, wd = draw.normal(M, D, scale=0.4)
    bd, c = draw.normal(D, scale=0.3)
    th, t = draw.threshold(M)
    bg, b_gate = draw.normal(M)
    rm, r_mag = draw.normal(M, scale=0.3)
    tensors = dict(W_enc=We, W_dec=Wd, b_dec=bd)
    if architecture == "gated":
        tensors |= dict(b_gate=bg, b_mag=be, r_mag=rm)
    else:
        tensors |= dict(b_enc=be)
    if architecture == "jumprelu":
        tensors |= dict(threshold=th)
    if architecture == "batchtopk":
        tensors |= dict(topk_threshold=torch.tensor(0.7, dtype=torch.float64))
    config = _v6(architecture, **fields) | {"normalize_activations": normalise}
    if centred:
        options = {"center_writing_weights": True, "fold_ln": True}
        config["metadata"] |= {"model_name": "gpt2-small", "model_from_pretrained_kwargs": options}
    _sae_lens(folder, config, tensors)
    n = np.linalg.norm(wd, axis=1)
    s = fields.get("norm_scaling_factor", 1.0)

    def latents(u):
        z = u @ we + b
        if architecture == "standard":
            return relu(z)
        if architecture == "gated":
            return (u @ we + b_gate > 0) * relu(u @ (we * np.exp(r_mag)) + b)
        if architecture == "jumprelu":
            return jump(z, t)
        if architecture == "abstopk":
            return top(z, K, by=np.abs(z))
        if architecture == "batchtopk":
            return jump(z * n, 0.7)
        return relu(top(z * n if fields.get("rescale_acts_by_decoder_norm") else z, K))

    def forward(x):
        shift, scale = 0.0, 1.0
        if normalise == "constant_norm_rescale":
            scale = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(D)
        if normalise == "expected_average_only_in":
            scale = 1 / s
        if centred:
            shift = x.mean(axis=1, keepdims=True)
        if normalise == "layer_norm":
            shift, scale = x.mean(axis=1, keepdims=True), x.std(axis=1, ddof=1, keepdims=True)
        epsilon = 1e-5 if normalise == "layer_norm" else 0.0
        f = latents((x - shift) / (scale + epsilon) - c)
        rescaled = architecture == "batchtopk" or fields.get("rescale_acts_by_decoder_norm")
        return f, ((f / n if rescaled else f) @ wd + c) * scale + shift

    return folder, forward


def sae_lens_folded(folder):
    """Neuronpedia's reading of a JumpReLU SAE: latents in the units of their decoder's norm."""
    path, forward = sae_lens(folder, "jumprelu")
    return path, lambda x: (
        forward(x)[0] * np.linalg.norm(_decoder_of_sae_lens(), axis=1),
        forward(x)[1],
    )


def _decoder_of_sae_lens():
    draw = Weights(7)
    draw.encoder(D, M), draw.normal(M)
    return draw.normal(M, D, scale=0.4)[1]


def dictionary_learning(folder, dict_class, variant="reference"):
    draw = Weights(8)
    We, we = draw.encoder(M, D)
    be, b = draw.normal(M)
    Dc, dec = draw.normal(D, M)
    bd, c = draw.normal(D, scale=0.3)
    th, t = draw.threshold(M)
    gb, gate = draw.normal(M)
    rm, r = draw.normal(M, scale=0.3)
    linear = {"encoder.weight": We, "encoder.bias": be, "decoder.weight": Dc}
    matrices = dict(W_enc=We.T.contiguous(), b_enc=be, W_dec=Dc.T.contiguous(), b_dec=bd)
    k, scalar = torch.tensor(K, dtype=torch.int), torch.tensor(0.9)
    state, centred = {
        "AutoEncoder": (linear | {"bias": bd}, True),
        "AutoEncoderNew": (linear | {"decoder.bias": bd}, False),
        "GatedAutoEncoder": (
            {"decoder_bias": bd, "r_mag": rm, "gate_bias": gb, "mag_bias": be}
            | {"encoder.weight": We, "decoder.weight": Dc},
            True,
        ),
        "JumpReluAutoEncoder": (matrices | {"threshold": th}, False),
        "AutoEncoderTopK": (linear | {"b_dec": bd, "k": k, "threshold": scalar}, True),
        "BatchTopKSAE": (linear | {"b_dec": bd, "k": k, "threshold": scalar}, True),
        "MatryoshkaBatchTopKSAE": (
            matrices | {"k": k, "threshold": scalar, "group_sizes": torch.tensor([10, 30])},
            True,
        ),
    }[dict_class]
    _write(folder, "config.json", {"trainer": dict(
        trainer_class="Trainer", dict_class=dict_class, lr=3e-4, steps=1000, seed=0,
        activation_dim=D, dict_size=M, k=K, device="cuda:0", layer=12, lm_name="google/gemma-2-2b",
        submodule_name="resid_post_layer_12",
    ), "buffer": dict(d_submodule=D, io="out")})  # fmt: skip
    torch.save(state, folder / "ae.pt")

    def forward(x):
        u = x - c if centred else x
        z = u @ we.T + b
        n = np.linalg.norm(dec, axis=0)
        if dict_class == "GatedAutoEncoder":
            e = u @ we.T
            f = (e + gate > 0) * relu(np.exp(r) * e + b)
        elif dict_class == "JumpReluAutoEncoder":
            f = relu(z * (z > t))
        elif dict_class == "AutoEncoderTopK":
            f = top(relu(z), K)
        elif "TopK" in dict_class:
            f = relu(z) * (relu(z) > float(scalar))
        elif dict_class == "AutoEncoder" and variant == "reference":
            f = relu(u @ (we.T * n) + b * n)
            return f, f @ (dec / n).T + c
        else:
            f = relu(z)
        return f, f @ dec.T + c

    return folder, forward


def dictionary_learning_interrupted(folder):
    """A backup of a run that was cut: nested, with biases still to be scaled."""
    path, _ = dictionary_learning(folder, "BatchTopKSAE")
    state = torch.load(folder / "ae.pt")
    torch.save(
        {"step": 7, "ae": state, "optimizer": {"lr": 1.0}, "config": {}, "norm_factor": 2.5},
        folder / "ae.pt",
    )
    number = lambda name: state[name].to(torch.float64).numpy()
    we, dec = number("encoder.weight"), number("decoder.weight")
    b, c, t = (2.5 * number(name) for name in ("encoder.bias", "b_dec", "threshold"))

    def forward(x):
        a = relu((x - c) @ we.T + b)
        f = a * (a > t)
        return f, f @ dec.T + c

    return path, forward


def sparsify(folder, activation):
    draw = Weights(9)
    We, we = draw.encoder(M, D)
    be, b = draw.normal(M)
    Wd, wd = draw.normal(M, D)
    bd, c = draw.normal(D, scale=0.3)
    path = folder / "layers.10"
    k = GROUPS if activation == "groupmax" else K
    _write(path, "cfg.json", dict(
        activation=activation, expansion_factor=64, normalize_decoder=True, num_latents=0, k=k,
        multi_topk=False, skip_connection=False, transcode=False, d_in=D,
    ))  # fmt: skip
    save_file(
        {"encoder.weight": We, "encoder.bias": be, "W_dec": Wd, "b_dec": bd},
        path / "sae.safetensors",
    )

    def forward(x):
        a = relu((x - c) @ we.T + b)
        if activation == "topk":
            f = top(a, K)
        else:
            groups = a.reshape(len(a), k, M // k)
            f = np.zeros_like(groups)
            best = groups.argmax(axis=2)[..., None]
            np.put_along_axis(f, best, np.take_along_axis(groups, best, 2), 2)
            f = f.reshape(a.shape)
        return f, f @ wd + c

    return path, forward


def linear_pair(folder, maker):
    draw = Weights(10)
    We, we = draw.encoder(M, D)
    be, b = draw.normal(M)
    Dc, dec = draw.normal(D, M)
    bd, c = draw.normal(D)
    if maker == "goodfire":
        names = ("encoder_linear", "decoder_linear")
        path = folder / "Llama-3.1-8B-Instruct-SAE-l19.pth"
        state = dict(zip([f"{n}.{p}" for n in names for p in ("weight", "bias")],
                         (We, be, Dc, bd), strict=True))  # fmt: skip
    else:
        path = folder / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5" / "layer3.sae.pt"
        path.parent.mkdir(exist_ok=True)
        state = dict(W_enc=We, W_dec=Dc, b_enc=be, b_dec=bd)
    torch.save(state, path)
    act = relu if maker == "goodfire" else lambda z: relu(top(z, K))
    return path, lambda x: (f := act(x @ we.T + b), f @ dec.T + c)


_SCALE = np.sqrt(D) / 3.0
# name -> (variant, function that writes the files into a folder and returns place and formula)
CASES = {
    "gemma_scope": ("", gemma_scope),
    "gemma_scope_lower_case": ("", lambda f: gemma_scope(f, lower=True)),
    "gemma_scope_2": ("", gemma_scope_2),
    "llama_scope": ("", lambda f: llama_scope(f, "reference")),
    "llama_scope_saelens": ("saelens", lambda f: llama_scope(f, "saelens")),
    "llama_scope_pre483": ("saelens_pre483", lambda f: llama_scope(f, "saelens_pre483")),
    "llama_scope_r1": ("", lambda f: openmoss_r1(f, False)),
    "llama_scope_r1_with_norms": ("", lambda f: openmoss_r1(f, True)),
    "openmoss_relu": ("", lambda f: openmoss_native(f, "relu")),
    "openmoss_topk": ("", lambda f: openmoss_native(f, "topk")),
    "sae_lens_old": ("", sae_lens_old),
    "sae_lens_standard": ("", lambda f: sae_lens(f, "standard")),
    "sae_lens_gated": ("", lambda f: sae_lens(f, "gated")),
    "sae_lens_jumprelu": ("", lambda f: sae_lens(f, "jumprelu")),
    "sae_lens_folded": ("fold_decoder_norm", sae_lens_folded),
    "sae_lens_topk": ("", lambda f: sae_lens(f, "topk", k=K)),
    "sae_lens_topk_rescaled": (
        "", lambda f: sae_lens(f, "topk", k=K, rescale_acts_by_decoder_norm=True)
    ),
    "sae_lens_abstopk": ("", lambda f: sae_lens(f, "abstopk", k=K)),
    "sae_lens_batchtopk": ("", lambda f: sae_lens(f, "batchtopk", k=K)),
    "sae_lens_constant_norm": ("", lambda f: sae_lens(f, "jumprelu", "constant_norm_rescale")),
    "sae_lens_layer_norm": ("", lambda f: sae_lens(f, "jumprelu", "layer_norm")),
    "sae_lens_centred": ("", lambda f: sae_lens(f, "jumprelu", centred=True)),
    "sae_lens_centred_average": (
        "",
        lambda f: sae_lens(
            f, "gated", "expected_average_only_in", centred=True, norm_scaling_factor=_SCALE
        ),
    ),
    "sae_lens_expected_average": (
        "",
        lambda f: sae_lens(f, "jumprelu", "expected_average_only_in", norm_scaling_factor=_SCALE),
    ),
    "saebench_standard": ("", lambda f: dictionary_learning(f, "AutoEncoder")),
    "saebench_standard_raw": ("raw", lambda f: dictionary_learning(f, "AutoEncoder", "raw")),
    "saebench_april_update": ("", lambda f: dictionary_learning(f, "AutoEncoderNew")),
    "saebench_gated": ("", lambda f: dictionary_learning(f, "GatedAutoEncoder")),
    "saebench_jumprelu": ("", lambda f: dictionary_learning(f, "JumpReluAutoEncoder")),
    "saebench_topk": ("", lambda f: dictionary_learning(f, "AutoEncoderTopK")),
    "saebench_batchtopk": ("", lambda f: dictionary_learning(f, "BatchTopKSAE")),
    "saebench_matryoshka": ("", lambda f: dictionary_learning(f, "MatryoshkaBatchTopKSAE")),
    "saebench_interrupted": ("", dictionary_learning_interrupted),
    "sparsify_topk": ("", lambda f: sparsify(f, "topk")),
    "sparsify_groupmax": ("", lambda f: sparsify(f, "groupmax")),
    "goodfire": ("", lambda f: linear_pair(f, "goodfire")),
    "qwen_scope": ("", lambda f: linear_pair(f, "qwen")),
}  # fmt: skip


def inputs(forward, n=24):
    """Draws rows whose decisions are clear: a change of 1e-3 flips no latent of theirs."""
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(200):
        x = np.float32(rng.normal(size=(64, D)) * 2).astype(np.float64)
        on = forward(x)[0] != 0
        same = np.ones(len(x), bool)
        for _ in range(8):
            moved = forward(x + 1e-3 * rng.choice([-1, 1], size=x.shape))[0] != 0
            same &= (moved == on).all(axis=1)
        kept += list(x[same])
        if len(kept) >= n:
            return np.float32(kept[:n])
    raise RuntimeError("too few clear rows")
