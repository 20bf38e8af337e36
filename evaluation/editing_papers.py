"""The papers' own tables, to stand beside ours: CelebA-HQ at 1024 pixels with the authors' networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table as printed."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(part.strip() for part in line.split("|")) for line in text.strip().splitlines())


HYPEREDITOR_1 = PaperTable(
    title="HyperEditor, Table 1",
    headings=("PSNR ↑", "LPIPS ↓", "SSIM ↑", "IDS ↑", "FID-0 ↓", "FID-1 ↓", "CS ↑", "Nop ↓"),
    rows=_rows("""
StyleCLIP-GD, α = 5 | 24.96 | 0.28 | 0.79 | 0.72 | 11.73 | 44.05 | 24.82 | –
StyleCLIP-GD, α = 10 | 20.51 | 0.33 | 0.76 | 0.64 | 17.08 | 201.95 | 25.28 | –
StyleCLIP-LM | 20.57 | 0.23 | 0.81 | 0.84 | 8.49 | 14.58 | 26.35 | 33.52 M
StyleGAN-NADA | 18.75 | 0.27 | 0.74 | 0.58 | 56.20 | 59.54 | 26.69 | –
DeltaEdit | 23.31 | 0.23 | 0.82 | 0.81 | 10.04 | 8.60 | 22.89 | 82.76 M
HyperEditor | 25.33 | 0.22 | 0.85 | 0.85 | 6.19 | 7.19 | 27.35 | 71.48 M
HyperEditor, global CLIP | 23.21 | 0.39 | 0.77 | 0.71 | 120.18 | 61.07 | 22.96 | –
HyperEditor, layer selector | 24.87 | 0.18 | 0.87 | 0.83 | 8.84 | 7.50 | 26.37 | 15.66 M
"""),
)
HYPEREDITOR_3 = PaperTable(
    title="HyperEditor, Table 3 (rank in brackets)",
    headings=("PSNR ↑", "LPIPS ↓", "SSIM ↑", "IDS ↑", "CS ↑", "AR ↓", "Nop ↓"),
    rows=_rows("""
λ = 0.2 | 25.06 (4) | 0.20 (2) | 0.86 (2) | 0.83 (3) | 26.33 (3) | 2.8 | 27.24 M
λ = 0.4 | 24.60 (5) | 0.21 (3) | 0.85 (3) | 0.78 (5) | 27.05 (2) | 3.6 | 23.54 M
λ = 0.6 | 25.75 (3) | 0.20 (2) | 0.86 (2) | 0.84 (2) | 27.12 (1) | 2.0 | 16.28 M
λ = 0.8 | 26.89 (1) | 0.20 (2) | 0.86 (2) | 0.82 (4) | 25.55 (4) | 2.6 | 12.01 M
λ = 1.0 | 26.79 (2) | 0.19 (1) | 0.88 (1) | 0.85 (1) | 25.20 (5) | 2.0 | 11.09 M
"""),
)
CLIPINVERTER_1 = PaperTable(
    title="CLIPInverter, Table 1",
    headings=("FID ↓", "CMP ↑", "AMA single ↑", "AMA multiple ↑", "ID ↑"),
    rows=_rows("""
TediGAN-B | 55.424 | 0.285 | 11.286 | 1.142 | 37.97
StyleCLIP-LO | 80.833 | 0.210 | 15.857 | 3.429 | 29.69
StyleCLIP-GD | 82.393 | 0.191 | 33.143 | 11.429 | 57.37
StyleMC | 84.088 | 0.187 | 12.143 | 2.857 | 30.05
HairCLIP | 93.523 | 0.218 | 41.571 | 15.143 | 57.50
CLIPInverter | 97.210 | 0.221 | 61.429 | 41.714 | 52.14
"""),
)
CLIPINVERTER_4 = PaperTable(
    title="CLIPInverter, Table 4",
    headings=("FID ↓", "CMP ↑", "AMA ↑"),
    rows=_rows("""
global CLIP loss | 83.404 | 0.221 | 25.429
without perceptual losses | 105.432 | 0.194 | 65.571
without cycle pass | 85.851 | 0.215 | 40.857
without CLIPAdapter | 89.244 | 0.202 | 41.571
without CLIPRemapper | 88.395 | 0.216 | 53.28
CLIPInverter | 97.210 | 0.221 | 61.429
"""),
)
