"""Train a recurrent network on Python code, character by character, at a learning rate that only works with clipping.

    python examples/char_rnn.py                     half a minute; draws runs/char_rnn.png

The text is the source of Python's own standard library. Two networks start from the same weights and see the same
batches; one has a GradientNormClipper. The gradient of a recurrent network explodes from time to time. One such update
ruins the unclipped network; the clipped one makes a step of limited length and continues to learn.
"""

import argparse
import math
import sysconfig
from pathlib import Path

import torch
from ignite.engine import Engine
from matplotlib.figure import Figure
from torch import Tensor, nn

from ignite_tips import GradientNormClipper, OptimizerEvents


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a character RNN with and without gradient clipping.")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--max-norm", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("runs/char_rnn.png"))
    return parser.parse_args()


def read_text(characters: int = 2_000_000) -> Tensor:
    """Return the standard library's sources as byte values; one value replaces everything that is not ASCII."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = bytearray()
    for path in sorted(folder.glob("*.py")):
        text += path.read_bytes()
        if len(text) >= characters:
            break
    return torch.tensor(bytearray(text[:characters]), dtype=torch.uint8).long().clamp(max=127)


def make_batches(
    text: Tensor, count: int, seed: int, *, size: int = 32, length: int = 64
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of passages, and of the same passages shifted by one character."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        starts = torch.randint(len(text) - length - 1, (size,), generator=generator)
        passages = torch.stack([text[start : start + length + 1] for start in starts])
        batches.append((passages[:, :-1], passages[:, 1:]))
    return batches


class CharRNN(nn.Module):
    """Predicts each next character from the previous ones."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 64)
        self.rnn = nn.RNN(64, width, nonlinearity="relu", batch_first=True)
        nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))  # neither vanishing nor, at first, exploding
        self.head = nn.Linear(width, 128)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the logits of each next character."""
        logits: Tensor = self.head(self.rnn(self.embedding(characters))[0])
        return logits


def train(batches: list[tuple[Tensor, Tensor]], lr: float, max_norm: float, seed: int) -> dict[str, list[float]]:
    """Train a network; return the loss and the gradient norm before clipping of every update."""
    torch.manual_seed(seed)
    model = CharRNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    record: dict[str, list[float]] = {"loss": [], "grad_norm": []}

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
        loss.backward()
        optimizer.step()
        record["loss"].append(loss.item())

    trainer = Engine(update)
    # With an infinite threshold the clipper only measures; NaN propagates because the unclipped run should show it.
    GradientNormClipper(optimizer, max_norm, on_nonfinite="propagate").attach(trainer)

    @trainer.on(OptimizerEvents.STEP_COMPLETED)
    def keep_norm(engine: Engine) -> None:
        record["grad_norm"].append(engine.state.metrics["grad_norm"])

    trainer.run(batches)
    return record


def draw(runs: dict[str, dict[str, list[float]]], max_norm: float, picture: Path) -> None:
    """Draw loss and gradient norm of all runs, one above the other."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    loss, norm = figure.subplots(2, 1, sharex=True)
    for name, run in runs.items():
        loss.plot(run["loss"], label=name, linewidth=1)
        norm.plot(run["grad_norm"], label=name, linewidth=1)
    loss.axhline(math.log(128), color="gray", linestyle=":", label="chance")
    loss.set(ylabel="loss", ylim=(1, 10), title="A recurrent network on Python's standard library")
    norm.axhline(max_norm, color="gray", linestyle=":", label="max_norm")
    norm.set(ylabel="gradient norm before clipping", xlabel="update", yscale="log")
    loss.legend()
    norm.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)


def tell(name: str, losses: list[float], window: int = 20) -> None:
    """Print the first and last loss of a run, and where it was lost, if it was."""
    last = losses[-window:]
    lost = next((update for update, loss in enumerate(losses, 1) if not math.isfinite(loss)), None)
    end = f"{sum(last) / len(last):.2f}" if lost is None else f"lost from update {lost} on"
    print(f"{name:10} first loss {losses[0]:.2f}, last {end}")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    batches = make_batches(read_text(), arguments.updates, arguments.seed)
    runs = {
        "unclipped": train(batches, arguments.lr, math.inf, arguments.seed),
        "clipped": train(batches, arguments.lr, arguments.max_norm, arguments.seed),
    }
    print(f"learning rate {arguments.lr:g}, {arguments.updates} updates, chance {math.log(128):.2f}")
    for name, run in runs.items():
        tell(name, run["loss"])
    draw(runs, arguments.max_norm, arguments.picture)
    print(f"wrote {arguments.picture}")


if __name__ == "__main__":
    main()
