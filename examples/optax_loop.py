"""Fine-tune a classifier of digits 0-4 for digits 5-9 with JAX and Optax, with and without Segue.

Run it with `python examples/optax_loop.py`. Needs jax, optax, and scikit-learn for its data.
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import segue
from segue.adapters.jax import increment, init_state, make_bank, smoothed_value_and_grad

NUM_SMOOTHING_STEPS, NUM_STEPS = 40, 160
optimizer = optax.adamw(3e-3)


def logits(params, images):
    return jax.nn.relu(images @ params["w1"]) @ params["w2"]


def loss_on(params, place):
    images, labels = place[0].draw(place[1])  # drawn here, so that a skipped loss draws nothing
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()


def train(params, data, num_steps, bank=None):
    """Train on `data`; with a replay bank, ease into it from what the bank holds."""
    schedule = segue.linear_decay(NUM_SMOOTHING_STEPS) if bank else segue.hard_switch()
    target = make_bank(data, num_examples=None, batch_size=32, seed=1)
    value_and_grad = smoothed_value_and_grad(loss_on, loss_on, schedule)

    def step(carry, index):
        params, opt_state, clock = carry
        losses, grads = value_and_grad(params, clock.num_steps, (bank, index), (target, index))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, increment(clock)), losses.log()

    start = (params, optimizer.init(params), init_state())
    return jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(num_steps)))(start)[0][0]


def main():
    images, labels = (jnp.asarray(x) for x in load_digits(return_X_y=True))
    images, old = images / 16, labels < 5
    source, target = (images[old], labels[old]), (images[~old], labels[~old] - 5)
    weights = jax.random.normal(jax.random.key(0), (64, 69)) / 8
    seen = (source[0][:700], source[1][:700])
    params = train({"w1": weights[:, :64], "w2": weights[:, 64:]}, seen, 200)
    bank = make_bank(seen, batch_size=32)
    for name, replay in (("hard switch", None), ("smoothing", bank)):
        tuned = train(params, (target[0][:100], target[1][:100]), NUM_STEPS, replay)
        new = (logits(tuned, target[0][100:]).argmax(axis=1) == target[1][100:]).mean()
        kept = (logits(tuned, source[0][700:]).argmax(axis=1) == source[1][700:]).mean()
        print(f"{name}: target accuracy {new:.1%}, source accuracy {kept:.1%}")


if __name__ == "__main__":
    main()
