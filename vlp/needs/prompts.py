"""Pairs of prompts that affirm and deny findings, and what each report asserts of these."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.batch import Batch, ModelOutput, Prompts, Tokens
from vlp.core.config import ConfigError
from vlp.sample import Sample

from .assertions import finding_assertions
from .base import BUILD, DataSetup, Need, Rows, needs


@needs.register("prompts")
class PromptPairs(Need):
    """`Batch.prompts`, and their embeddings `ModelOutput.prompts` [2F, D]."""

    hint = "give the loader this objective's prompt_spec()"
    in_batch = True
    axis = None

    def open(self, setup: DataSetup) -> None:
        if setup.prompts is None:
            raise ConfigError("an objective needs prompts, and no objective says which (prompt_spec)")
        self.findings = setup.prompts.findings
        self.distinct = tuple(dict.fromkeys(self.findings))  # a finding in many wordings is looked up once
        self.column = [self.distinct.index(code) for code in self.findings]
        texts = [*setup.prompts.affirm, *setup.prompts.deny]
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # an equal text is encoded once
        self.tokens = setup.encode(list(place))
        self.rows = torch.tensor([place[text] for text in texts], dtype=torch.int64)

    def holds(self) -> str:
        return (
            f"any `concepts` with a code among {list(self.findings)}: {BUILD}, and name the objective's findings by the "
            "codes that are there"
        )

    def is_in(self, sample: Sample) -> bool:
        return any(mention.code in self.findings for mention in sample.concepts)

    def collate(self, rows: Rows) -> Prompts:
        table = [finding_assertions(sample.concepts, self.distinct) for sample in rows.samples]
        said = torch.tensor(table, dtype=torch.int8).reshape(len(table), len(self.distinct))[:, self.column]
        return Prompts(tokens=self.tokens, rows=self.rows, findings=list(self.findings), asserted=said)

    def short_texts(self, batch: Batch) -> Tokens | None:
        return batch.prompts.tokens if batch.prompts is not None else None

    def receive(self, embedded: Tensor, batch: Batch, output: ModelOutput) -> None:
        assert batch.prompts is not None
        output.prompts = embedded[batch.prompts.rows]
