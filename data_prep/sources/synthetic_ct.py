"""Synthetic chest CTs (`data_prep/synthetic/ct`): no raw data, any number of them, exact boxes, masks and labels."""

from __future__ import annotations

from vlp.core.config import config
from vlp.sample import Sample

from .base import sources
from .synthetic import World


@sources.register("synthetic_ct")
class SyntheticCt(World):
    name = "synthetic_ct"
    limits = "n >= 1, voxel from 0.5 to 20 mm, seed >= 0 and start >= 0"

    @config
    class Config:
        """`n` studies of the world `seed`, from study `start` on, with voxels of `voxel` millimetres."""

        n: int = 2000
        voxel: float = 6.0
        seed: int = 0
        start: int = 0

    def can_draw(self) -> bool:
        return bool(0.5 <= self.config.voxel <= 20)

    def identify(self, index: int) -> tuple[str, str, str]:
        from ..synthetic.ct.generate import identify

        return identify(index, self.config.seed)

    def draw(self, index: int) -> Sample:
        from ..synthetic.ct.generate import generate

        return generate(index, self.config.seed, self.config.voxel)

    def findings(self) -> tuple[str, ...]:
        from ..synthetic.ct.state import FINDINGS

        return FINDINGS
