"""Random layer-wise token dropping: what is kept, what bypasses a block, and a real training run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.backbones.decoder_block import SequenceBounds
from core.backbones.llama import llama_tiny
from core.backbones.token_dropping import KeptTokens, TokenDropping, chosen, drop_tokens
from core.data.module import DataModule
from core.errors import UserError
from core.strategies import Mesh


@given(rows=st.integers(1, 4), tokens=st.integers(1, 40), part=st.integers(1, 40), layer=st.integers(0, 5))
def test_kept_places_ascend_and_depend_on_seed_step_and_layer(
    rows: int, tokens: int, part: int, layer: int
) -> None:
    kept = min(part, tokens)
    drawn = chosen(rows, tokens, kept, seed=1, step=2, layer=layer)
    assert drawn.shape == (rows, kept) and drawn.min() >= 0 and drawn.max() < tokens
    assert (drawn.diff(dim=1) > 0).all()
    assert torch.equal(drawn, chosen(rows, tokens, kept, seed=1, step=2, layer=layer))
    later = chosen(rows - 1 or 1, tokens, kept, seed=1, step=2, layer=layer, first=rows - (rows - 1 or 1))
    assert torch.equal(later, drawn[-later.shape[0] :])


def test_steps_and_layers_keep_different_places() -> None:
    draws = {str(chosen(1, 64, 32, seed=0, step=s, layer=n).tolist()) for s in range(3) for n in range(3)}
    assert len(draws) == 9


@settings(deadline=None)
@example(minimum=17, span=0, steps=1, multiple=8)
@given(
    minimum=st.integers(16, 100),
    span=st.integers(0, 300),
    steps=st.integers(1, 50),
    multiple=st.sampled_from([1, 8, 16]),
)
def test_kept_tokens_grow_to_all(minimum: int, span: int, steps: int, multiple: int) -> None:
    kept = KeptTokens(minimum, minimum + span, steps, multiple, layers=6)
    values = [kept.value(step) for step in range(kept.end + 5)]
    assert values == sorted(values) and all(v % multiple == 0 or v == kept.maximum for v in values)
    assert all(value == kept.maximum for value in values[kept.end :])
    assert kept.share(kept.end) == 1


class Mixing(nn.Module):
    """Multiplies by a table, shows which pairs it is allowed to see, and adds one."""

    def forward(
        self, x: Tensor, mask: Tensor, *, table: Tensor, packed: SequenceBounds | None = None
    ) -> Tensor:
        assert mask.shape[-2:] == (x.shape[1], x.shape[1])
        self.seen, self.packed = mask, packed
        return x * table + 1


def test_dropped_tokens_bypass_the_block_and_everything_is_cut_alike() -> None:
    block, x = Mixing(), torch.randn(2, 5, 5)
    places = torch.tensor([[0, 2, 4], [1, 2, 3]])
    handles = drop_tokens(block, lambda rows, tokens: places)
    table = torch.arange(5.0).view(1, 5, 1)
    mask = torch.arange(25).view(1, 1, 5, 5)
    done = block(x, mask, table=table)
    wanted = x.clone()
    for row in range(2):
        wanted[row, places[row]] = x[row, places[row]] * places[row, :, None] + 1
    torch.testing.assert_close(done, wanted)
    for row in range(2):
        assert torch.equal(block.seen[row, 0], mask[0, 0][places[row]][:, places[row]])
    block.eval()
    torch.testing.assert_close(block(x, mask, table=table), x * table + 1)
    block.train()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(block(x, mask, table=table), x * table + 1)


def test_packed_sequences_keep_their_borders() -> None:
    block, x = Mixing(), torch.randn(1, 6, 3)
    drop_tokens(block, lambda rows, tokens: torch.tensor([[0, 3, 4, 5]]))
    bounds = torch.tensor([0, 2, 3, 6], dtype=torch.int32)
    block(x, torch.ones(1, 1, 6, 6).bool(), table=torch.ones(6, 1), packed=SequenceBounds(bounds, 3))
    assert block.packed.cu_seqlens.tolist() == [0, 1, 1, 4]
    assert block.packed.cu_seqlens.dtype == torch.int32


def test_a_table_without_a_batch_dimension_needs_shared_places() -> None:
    block = Mixing()
    drop_tokens(block, lambda rows, tokens: torch.tensor([[0], [1]]))
    with pytest.raises(UserError, match="set shared to true"):
        block(torch.randn(2, 3, 4), torch.ones(1, 1, 3, 3).bool(), table=torch.ones(3, 1))


def test_gradients_reach_kept_and_dropped_tokens() -> None:
    block, x = nn.Linear(4, 4), torch.randn(1, 3, 4, requires_grad=True)
    drop_tokens(block, lambda rows, tokens: torch.tensor([[1]]))
    block(x).sum().backward()
    torch.testing.assert_close(x.grad[0, [0, 2]], torch.ones(2, 4))
    torch.testing.assert_close(x.grad[0, 1], block.weight.detach().sum(0))


class Bytes(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, where: tuple[int, int]) -> Tensor:
        return (torch.arange(33) * (where[1] + 3)) % 251


class Data(DataModule):
    def train_set(self) -> Dataset:
        return Bytes()


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = llama_tiny(width=32, depth=4)
        self.seen: list[list[int]] = []
        self.losses: list[float] = []
        for block in self.network.blocks():
            block.self_attn.register_forward_pre_hook(
                lambda m, given: self.seen[-1].append(given[0].shape[1])
            )

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        self.seen.append([])
        logits = self.network(ids[:, :-1]).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def train(kept: KeptTokens, kind: type[TokenDropping] = TokenDropping, **more: int) -> Model:
    model = Model()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[kind(kept, **more)],
    )
    trainer.fit(model, datamodule=Data(batch_size=4))
    return model


def test_a_recipe_can_drop_tokens_of_its_middle_layers() -> None:
    kept = KeptTokens(minimum=8, maximum=32, steps=6, multiple=8, layers=4)
    model = train(kept)
    assert model.seen == [[32, kept.value(step), kept.value(step), 32] for step in range(8)]
    assert [seen[1] for seen in model.seen] == [8, 8, 16, 16, 24, 24, 32, 32]
    assert model.losses == train(kept).losses
    assert model.losses != train(kept, seed=1).losses
    assert model.losses[-1] < model.losses[0]


class Recording(TokenDropping):
    """Keeps what was drawn, each time that something was."""

    drawn: list[tuple[tuple[int, ...], Tensor]] = []

    def _draw(self, trainer, layers, kept, asked):
        places = super()._draw(trainer, layers, kept, asked)
        self.drawn.append((asked, places))
        return places


def test_all_layers_places_of_a_step_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "drawn", [])
    kept = KeptTokens(minimum=8, maximum=32, steps=6, multiple=8, layers=4)

    model = train(kept, Recording)

    assert [asked[0] for asked, _ in Recording.drawn] == [0, 1, 2, 3, 4, 5]  # then all tokens are kept
    for (step, turn, rows, tokens), places in Recording.drawn:
        for layer, own in zip((1, 2), places, strict=True):
            alone = chosen(rows, tokens, kept.value(step), seed=0, step=step, layer=layer, turn=turn)
            assert torch.equal(own, alone)
    assert model.losses == train(kept).losses


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"tensor": 2, "sequence": True}, r"\(sequence=true\); .* or give sequence=false"),
        ({"context": 2}, r"\(context=2\); .* or give context=1"),
    ],
)
def test_slices_of_sequences_are_refused(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], said: str
) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    trainer = Trainer(accelerator="cpu", devices=2, strategy=Mesh(**sizes), logger=False)
    dropping = TokenDropping(KeptTokens(minimum=8, maximum=32, steps=6, multiple=8, layers=4))

    with pytest.raises(UserError, match=said):
        dropping.setup(trainer, Model(), "fit")


def test_a_wrong_number_of_layers_is_refused() -> None:
    with pytest.raises(
        UserError, match="set up for 24 layers, 22 of which drop tokens; the network has 4, 2 of"
    ):
        train(KeptTokens(minimum=16, maximum=32, steps=6))
    with pytest.raises(UserError, match="no token is kept at first"):
        TokenDropping(replace(KeptTokens(minimum=8, maximum=32, steps=6), multiple=16))
