"""SCAN ViT-L at full size against the released one: fill, convert, run, write numbers.

No weights are needed: a checkpoint in the official layout is filled from the names of its tensors
(``../shared/parity``), converted by ``scanseg convert``, and run through the public ``Segmenter``
on the reference photo. Written to the output folder:

* ``parity_vitL.npz`` and ``parity_vitL_seg.npz``: map and intermediates under the names of the
  reference numbers (``name__cC_sS_tT_nN_qQ``: every C-th channel, S-th row and column, T-th token,
  N-th region, Q-th query, from 0);
* ``parity_vitL.json``: seconds and peak memory of every step.

Serial; about 12 GiB of memory and 8 GB of temporary disk, minutes. ``--size b`` does the same for
ViT-B, whose reference numbers are at hand, and compares with them.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT.parent / "shared" / "parity"
LABELS = ["sky", "building", "tree", "grass", "person", "car"]
THRESHOLD, WEIGHT, RATIO = 0.4, 0.7, 0.15  # shipped with both sizes
SIZES = {"l": "L", "b": "B"}


def main() -> None:
    """Parse the command line and run the steps one after the other, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("parity_l"), help="folder for results")
    parser.add_argument(
        "--parity", type=Path, default=PARITY, help="folder of the reference numbers"
    )
    parser.add_argument(
        "--work", type=Path, default=None, help="folder for 8 GB of temporary files"
    )
    parser.add_argument("--size", choices=SIZES, default="l", help="l or b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", choices=["fill", "run"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "fill":
        fill(given.parity, SIZES[given.size], given.work)
    elif given.step == "run":
        run(given.parity, SIZES[given.size], given.work, given.output, given.threads)
    else:
        steps(given)


def steps(given: argparse.Namespace) -> None:
    """Fill, convert, run; the checkpoint goes away as soon as it is converted."""
    if not given.parity.is_dir():
        sys.exit(f"no reference numbers in {given.parity}; name their folder with --parity")
    given.output.mkdir(parents=True, exist_ok=True)
    size = SIZES[given.size]
    summary: dict[str, Any] = {"model": f"scan_vit{size}", "threads": given.threads}
    if given.work is not None:
        given.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="parity-", dir=given.work) as name:
        work = Path(name)
        same = ["--size", given.size, "--parity", str(given.parity.resolve()), "--work", str(work)]
        script = [sys.executable, __file__]
        checkpoint, folder = work / "scan.pth", work / "model"
        summary["fill"] = timed([*script, "--step", "fill", *same])
        convert = [sys.executable, "-m", "scanseg", "convert", str(checkpoint)]
        summary["checkpoint_bytes"] = checkpoint.stat().st_size
        summary["convert"] = timed([*convert, "--output", str(folder)])
        checkpoint.unlink()
        output = ["--output", str(given.output.resolve()), "--threads", str(given.threads)]
        summary["run"] = timed([*script, "--step", "run", *same, *output])
    stages = given.output / "stages.json"
    summary["run"] |= json.loads(stages.read_text())
    stages.unlink()
    (given.output / f"parity_vit{size}.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


def timed(command: list[str]) -> dict[str, float]:
    """Run a command; its seconds and peak memory in MiB."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": round(time.monotonic() - start, 2),
        "peak_mib": round(usage.ru_maxrss / scale, 1),
    }


def fill(parity: Path, size: str, work: Path) -> None:
    """Write a checkpoint in the official layout, values made from names."""
    import torch

    spec = importlib.util.spec_from_file_location("fill", parity / "fill.py")
    if spec is None or spec.loader is None:
        sys.exit(f"no fill.py in {parity}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entries = json.loads((parity / f"keys_scan_vit{size}.json").read_text())["keys"]
    state = {
        name: torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))
        for name, entry in entries.items()
    }
    module.fill_state_dict(state)
    torch.save({"model": state}, work / "scan.pth")


class Stages:
    """Seconds spent inside named functions, without those of other named functions inside them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.results: dict[str, Any] = {}
        self._inner = [0.0]

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time ``owner.method`` under ``name`` and keep what it last returned."""
        function: Callable[..., Any] = getattr(owner, method)

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            self.results[name] = function(*args, **kwargs)
            spent = time.perf_counter() - start
            self.seconds[name] += spent - self._inner.pop()
            self._inner[-1] += spent
            return self.results[name]

        setattr(owner, method, watched)


def run(parity: Path, size: str, work: Path, output: Path, threads: int) -> None:
    """Segment the reference photo once; write everything that has a reference number."""
    import numpy as np
    import torch
    from PIL import Image

    from scanseg import InferenceSettings, Segmenter, Vocabulary

    torch.set_num_threads(threads)
    settings = InferenceSettings(
        semantics="released",
        mask_threshold=THRESHOLD,
        ensemble_weight=WEIGHT,
        shift_ratio=RATIO,
        shift_order="first",
    )
    start = time.perf_counter()
    seg = Segmenter.from_pretrained(work / "model", device="cpu", settings=settings)
    loading = time.perf_counter() - start
    os.environ["SCANSEG_CACHE"] = str(work / "cache")
    vocabulary = Vocabulary(LABELS, background=())
    start = time.perf_counter()
    seg.encode(vocabulary)
    text_seconds = time.perf_counter() - start

    stages = Stages()
    stages.watch(seg, "forward", "rest of the model")
    stages.watch(seg.clip, "encode_image", "original CLIP")
    stages.watch(seg.proposals, "backbone_features", "backbone")
    stages.watch(seg.proposals, "pixel_decoder", "pixel decoder")
    stages.watch(seg.proposals, "_decode", "masked decoder")
    stages.watch(seg.proposals, "forward", "masks to full size")
    stages.watch(seg.integration, "forward", "semantic integration")
    stages.watch(seg, "cut", "crops")
    stages.watch(seg, "classify", "region CLIP")
    start = time.perf_counter()
    out = seg(parity / "photo.png", vocabulary, scores=True)
    total = time.perf_counter() - start

    with Image.open(parity / "photo_640.png") as image:
        photo = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        main_numbers, proposal_numbers = intermediates(seg, stages.results, photo, vocabulary, out)
    for suffix, numbers in (("", main_numbers), ("_seg", proposal_numbers)):
        np.savez_compressed(output / f"parity_vit{size}{suffix}.npz", **numbers)
    names = {"seconds_loading": loading, "seconds_text": text_seconds, "seconds_photo": total}
    seconds = {stage: round(spent, 3) for stage, spent in stages.seconds.items()}
    report: dict[str, Any] = {name: round(value, 3) for name, value in names.items()}
    report["stages"] = seconds
    report["valid_regions"] = int(main_numbers["valid"].sum())
    found = {**main_numbers, **proposal_numbers}
    for file in (parity / f"parity_vit{size}.npz", parity / f"parity_vit{size}_seg.npz"):
        if file.exists():
            report.setdefault("differences", {}).update(compare(found, file))
    (output / "stages.json").write_text(json.dumps(report))


def intermediates(
    seg: Any, results: dict[str, Any], photo: Any, vocabulary: Any, out: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Map and intermediates by the names of the reference numbers."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from scanseg.calibration.regions import patch_foreground
    from scanseg.fusion import fuse, in_vocabulary_scores, label_map

    evidence = results["rest of the model"]
    context = results["original CLIP"]
    regions = evidence.regions
    text, owners = seg.encode(vocabulary)
    void = F.normalize(seg.void, dim=-1)
    text_and_void = torch.cat([text, void[None]])
    visual, last = seg.clip.model["visual"], max(context.cls)
    masks = evidence.proposals.masks[0]  # (Q, h, w)

    main: dict[str, Any] = {}
    main["prop_emb_before_sim"] = evidence.proposals.embeddings[0]
    main["oclip_input__s4"] = seg.clip.preprocess(photo)[0, :, ::4, ::4]
    for layer in seg.recipe.token_layers:
        main[f"oclip_layer{layer}__t2_c16"] = context.patches[layer][0, ::2, ::16]
    for layer in (0, *seg.recipe.shift_layers, last):
        main[f"oclip_cls_layer{layer}"] = context.cls[layer][0]
    main["oclip_final_cls"] = (visual.ln_post(context.cls[last]) @ visual.proj)[0]

    sim = seg.integration
    for layer, sigma in zip(sim.config.layers, sim.config.sigmas, strict=True):
        rows, columns = context.grids[layer]
        grid = context.patches[layer].transpose(1, 2).unflatten(2, (rows, columns))
        main[f"lfm_out_layer{layer}__c16"] = sim.lfe(grid, sigma)[0, ::16]
    memory = sim.memory(context)
    main["oriclip_mlp_out__t4_c8"] = memory[0, ::4, ::8]
    injected = sim.inject(evidence.proposals.embeddings, memory)
    main["after_fusion_decoder"] = injected[0]
    main["lwt_input"] = (injected + sim.gamma * context.pooled[:, None])[0]
    main["after_lightweight_transformer"] = evidence.embeddings[0]
    main["text_features"] = text_and_void
    scale = seg.recipe.embedding_scale
    unit = F.normalize(evidence.embeddings[0], dim=-1)
    main["in_vocab_logits"] = scale * unit @ text_and_void.T

    main["valid"] = regions.valid[0]
    main["boxes_xyxy"] = regions.boxes.float()
    main["mask_fg_pixels"] = regions.inside[0].flatten(1).sum(1)
    main["mask_thr_margin_min"] = (masks - THRESHOLD).abs().flatten(1).amin(1)
    main["regions_norm__n8_s16"] = regions.pixels[::8, :, ::16, ::16]
    main["region_masks__n8_s16"] = regions.masks[::8, None, ::16, ::16].float()
    foreground = patch_foreground(regions.masks, seg.region_clip.grid)
    main["region_patch_mask"] = foreground.flatten(1).to(torch.uint8)
    features = results["region CLIP"]
    main["region_clip_feat"] = features
    main["region_clip_logits"] = seg.recipe.region_scale * features @ text_and_void.T

    p_in, p_void = in_vocabulary_scores(evidence.embeddings, text, owners, seg.void, scale)
    for kind, name in (("plain", "semseg"), ("log", "semseg_log")):
        scores = fuse(
            p_in,
            p_void,
            evidence.p_clip,
            regions.valid,
            weight=WEIGHT,
            branches="both",
            log_fusion=kind == "log",
        )[0]
        main[f"cls_probs_{kind}"] = scores
        found = label_map(scores, masks, out.labels.shape, keep_scores=True)
        main[f"{name}_final__s6"] = found.scores[:, ::6, ::6]
        main[f"{name}_final_argmax"] = found.labels.to(torch.uint8)
    resized = torch.einsum("qk,qhw->khw", evidence.scores[0], masks)
    main["semseg_640__s16"] = resized[:, ::16, ::16]
    best = torch.from_numpy(out.scores[:, ::6, ::6]).topk(2, dim=0).values
    main["argmax_margin_rel__s6"] = (best[0] - best[1]) / best[0]
    main["semseg_final_argmax"] = torch.from_numpy(
        out.labels.astype(np.uint8)
    )  # of the public call

    generator = seg.proposals
    images = generator.prepare(photo)
    features_by_stage = results["backbone"]
    mask_features, scales = results["pixel decoder"]
    layers = generator.forward_layers(photo)
    logits = layers[-1].mask_logits[0]
    part: dict[str, Any] = {}
    for index, (channels, step) in enumerate(((16, 10), (16, 5), (16, 3), (16, 2))):
        stage = features_by_stage[index][0, ::channels, ::step, ::step]
        part[f"swin_res{index + 2}__c{channels}_s{step}"] = stage
    part["in_norm__s16"] = images[0, :, ::16, ::16]
    part["in_norm_lastcols"] = images[0, :, ::64, -16:]
    part["pd_mask_features__c16_s8"] = mask_features[0, ::16, ::8, ::8]
    for index, step in enumerate((1, 2, 4)):
        part[f"pd_ms{index}__c16_s{step}"] = scales[index][0, ::16, ::step, ::step]
    part["pred_masks__s6"] = logits[:, ::6, ::6]
    part["pred_masks_mean_std"] = torch.stack([logits.mean((1, 2)), logits.std((1, 2))])
    auxiliary = layers[:-1]
    part["aux_pred_masks__s20"] = torch.cat([x.mask_logits for x in auxiliary])[..., ::20, ::20]
    part["aux_prop_emb__q10_c8"] = torch.cat([x.embeddings for x in auxiliary])[:, ::10, ::8]
    part["mask_prob__s16"] = masks[:, ::16, ::16]
    ignored = [
        F.interpolate(x.mask_logits, size=scales[i % 3].shape[-2:], mode="bilinear").sigmoid() < 0.5
        for i, x in enumerate(layers)
    ]
    main["attn_mask_true_count"] = torch.stack([m[0].flatten(1).sum(1) for m in ignored]).float()

    def numpy(numbers: dict[str, Any]) -> dict[str, Any]:
        return {name: value.contiguous().numpy() for name, value in numbers.items()}

    return numpy(main), numpy(part)


def compare(found: dict[str, Any], file: Path) -> dict[str, float]:
    """Largest difference by name, as a share of the largest reference number."""
    import numpy as np

    differences = {}
    with np.load(file) as reference:
        for name in reference.files:
            if name == "meta":
                continue
            theirs = reference[name].astype(np.float64)
            ours = found[name].astype(np.float64)
            if name.endswith("_argmax"):
                differences[name] = float((ours != theirs).mean())
            else:
                difference = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12)
                differences[name] = float(f"{difference:.3g}")
    return differences


if __name__ == "__main__":
    main()
