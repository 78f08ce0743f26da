"""Write features in the layouts of other tools, as these tools write them."""

import json
from pathlib import Path

import h5py
import numpy as np
import torch

SIZE = (4096, 4096)  # of the slides, in level-0 pixels


def square_corners(side: int, columns: int = 4, rows: int = 4, start: int = 0) -> np.ndarray:
    """Return the corners of squares that fill a rectangle, row by row."""
    row, column = np.divmod(np.arange(columns * rows), columns)
    return np.stack([column, row], axis=1) * side + start


def write_trident(
    job: Path,
    slide: str,
    corners: np.ndarray,
    features: np.ndarray,
    *,
    magnification: float = 10,
    patch_size: int = 256,
    side: float | None = None,
    scanned: object = 40,
    overlap: int = 0,
    size: tuple[int, int] = SIZE,
    encoder: str = "uni_v2",
) -> Path:
    """Write the two files of one slide; return the folder of features."""
    grid = job / f"{magnification:g}x_{patch_size}px_{overlap}px_overlap"
    geometry = {
        "patch_size": patch_size,
        "patch_size_level0": patch_size * 40 // magnification if side is None else side,
        "level0_magnification": scanned,
        "target_magnification": magnification,
        "overlap": overlap,
        "name": slide,
        "savetodir": str(grid / "patches"),
        "level0_width": size[0],
        "level0_height": size[1],
    }
    folder = grid / f"features_{encoder}"
    for path in (grid / "patches" / f"{slide}_patches.h5", folder / f"{slide}.h5"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            coords = file.create_dataset(
                "coords", data=corners.astype(np.int64), chunks=(1, 2), maxshape=(None, 2)
            )
            coords.attrs.update(geometry)
            if path.parent != folder:
                continue
            width = features.shape[1]
            stored = file.create_dataset(
                "features",
                data=features.astype(np.float32),
                chunks=(1, width),
                maxshape=(None, width),
            )
            stored.attrs.update({"encoder": encoder, "name": slide, "savetodir": str(folder)})
    return folder


def write_clam(
    out: Path,
    slide: str,
    corners: np.ndarray,
    features: np.ndarray,
    *,
    patch_size: int = 256,
    downsample: float = 4.0,
    tensors_only: bool = False,
) -> Path:
    """Write the files of one slide; return the output folder."""
    for name in ("patches", "pt_files", *(() if tensors_only else ("h5_files",))):
        (out / name).mkdir(parents=True, exist_ok=True)
    level = np.array([size / downsample for size in SIZE]).astype(np.int64)
    with h5py.File(out / "patches" / f"{slide}.h5", "w") as file:
        coords = file.create_dataset(
            "coords", data=corners.astype(np.int32), chunks=(1, 2), maxshape=(None, 2)
        )
        coords.attrs.update(
            {
                "patch_size": patch_size,
                "patch_level": 1,
                "downsample": np.array([downsample, downsample]),
                "downsampled_level_dim": level,
                "level_dim": level,
                "name": slide,
                "save_path": str(out / "patches"),
            }
        )
    torch.save(torch.from_numpy(features.astype(np.float32)), out / "pt_files" / f"{slide}.pt")
    if not tensors_only:
        with h5py.File(out / "h5_files" / f"{slide}.h5", "w") as file:
            file.create_dataset("features", data=features.astype(np.float32), chunks=(1, 4))
            file.create_dataset("coords", data=corners.astype(np.int32), chunks=(1, 2))
    return out


def write_stamp(
    out: Path,
    slide: str,
    corners_um: np.ndarray,
    features: np.ndarray,
    *,
    side_um: float | None = 256.0,
    size_px: int = 224,
    extractor: str = "mahmood-uni2-3d2f1a0b",
    kind: str = "tile",
) -> Path:
    """Write the file of one slide; return the folder. Without a side, as STAMP 1 wrote it."""
    out.mkdir(parents=True, exist_ok=True)
    with h5py.File(out / f"{slide}.h5", "w") as file:
        file["feats"] = features.astype(np.float16)
        file["coords"] = corners_um.astype(np.float32)
        if side_um is not None:
            file.attrs.update(
                {
                    "stamp_version": "2.3.0",
                    "extractor": extractor,
                    "unit": "um",
                    "tile_size_um": side_um,
                    "tile_size_px": size_px,
                    "code_hash": "3d2f1a0b",
                    "feat_type": kind,
                }
            )
    return out


def write_slide2vec(
    out: Path,
    slide: str,
    corners: np.ndarray,
    features: np.ndarray,
    *,
    spacing: float = 1.0,
    side: int = 1024,
    encoder: str = "virchow2",
    npz: bool = False,
) -> Path:
    """Write the files of one slide; return the output folder."""
    tiles, embeddings = out / "tiles", out / "tile_embeddings"
    for folder in (tiles, embeddings):
        folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "sample_id": slide,
        "artifact_type": "tile_embeddings",
        "encoder_level": "tile",
        "encoder_name": encoder,
        "feature_dim": features.shape[1] if len(features) else None,
        "format": "npz" if npz else "pt",
        "num_tiles": len(features),
        "requested_tile_size_px": 256,
        "requested_spacing_um": spacing,
        "tile_size_lv0": side,
    }
    (embeddings / f"{slide}.meta.json").write_text(json.dumps(meta))
    if not len(features):
        return out
    x, y = corners.astype(np.int64).T
    index = np.arange(len(x), dtype=np.int32)
    np.savez(
        tiles / f"{slide}.coordinates.npz",
        x=x,
        y=y,
        tile_index=index,
        tissue_fractions=np.ones(len(x), dtype=np.float32),
    )
    tiling = {"slide": {"dimensions": list(SIZE)}, "tiling": {"tile_size_lv0": side}}
    (tiles / f"{slide}.coordinates.meta.json").write_text(json.dumps(tiling))
    if npz:
        np.savez_compressed(embeddings / f"{slide}.npz", features=features.astype(np.float32))
    else:
        torch.save(torch.from_numpy(features.astype(np.float32)), embeddings / f"{slide}.pt")
    return out


def write_zoommil(
    out: Path, slide: str, chains: dict[str, np.ndarray], features: dict[str, np.ndarray]
) -> Path:
    """Write the file of one slide, with chains and features by magnification (`10.0`)."""
    out.mkdir(parents=True, exist_ok=True)
    with h5py.File(out / f"{slide}.h5", "w") as file:
        for magnification, rows in features.items():
            file.create_dataset(f"{magnification}x_patches", data=rows.astype(np.float32))
            file.create_dataset(f"{magnification}x_coords", data=chains[magnification])
    return out
