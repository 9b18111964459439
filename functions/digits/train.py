#!/usr/bin/env python3
"""Trains the digits network and writes weights.bin and heldout.bin beside this script.

Data: the 1,797 handwritten digits that scikit-learn bundles (load_digits), 8x8 pixels, values 0..16:
E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.

1,000 images are held out by a fixed stratified split before anything else happens and are looked at
once, at the very end. Width, weight decay and number of epochs were chosen by 5-fold
cross-validation on the other 797 (--cv). Needs numpy and scikit-learn (for the data):

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy scikit-learn
    /tmp/venv/bin/python functions/digits/train.py         # about two minutes on one core

weights.bin, little-endian: "FDW1", then uint32 side, channels1, channels2, classes, then float32:
conv1 weights [channels1][1][3][3], biases, conv2 weights [channels2][channels1][3][3], biases,
fully connected weights [classes][channels2][side/2][side/2], biases.
heldout.bin: 1,000 records of 65 bytes: 64 pixels (row by row, 0..16) and the label (0..9).
"""
import argparse
import os
import pathlib
import struct

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # one thread: the order of additions, and so the result, is fixed

import numpy as np  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SIDE, CLASSES, HELD_OUT = 8, 10, 1000
SPLIT_SEED, TRAIN_SEED = 1797, 7


def load_split():
    """Returns (training images, labels, held-out images, labels); images as uint8 [n, 8, 8]."""
    from sklearn.datasets import load_digits
    data = load_digits()
    images, labels = data.images.astype(np.uint8), data.target.astype(np.int64)
    rng = np.random.default_rng(SPLIT_SEED)
    order = rng.permutation(len(labels))
    held = []
    for digit in range(CLASSES):
        of_digit = order[labels[order] == digit]
        held.extend(of_digit[:round(len(of_digit) * HELD_OUT / len(labels))])
    rest = [i for i in order if i not in set(held)]
    while len(held) < HELD_OUT:  # rounding per class may leave a few to add or to give back
        held.append(rest.pop())
    while len(held) > HELD_OUT:
        rest.append(held.pop())
    held, rest = rng.permutation(held), np.array(rest)
    return images[rest], labels[rest], images[held], labels[held]


def augment(images, rng):
    """Rotates, scales, shears and shifts each image a little (bilinear), and adds noise."""
    count = len(images)
    angle = rng.uniform(-0.26, 0.26, count)
    scale = rng.uniform(0.88, 1.14, (2, count))
    shear = rng.uniform(-0.15, 0.15, count)
    shift = rng.uniform(-0.9, 0.9, (2, count))
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    yy, xx = np.meshgrid(axis, axis, indexing="ij")
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    sx = (cos * xx - sin * yy + shear[:, None, None] * yy) * scale[0][:, None, None]
    sy = (sin * xx + cos * yy) * scale[1][:, None, None]
    sx += shift[0][:, None, None] + (SIDE - 1) / 2
    sy += shift[1][:, None, None] + (SIDE - 1) / 2
    x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
    fx, fy = sx - x0, sy - y0
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4)))
    which = np.arange(count)[:, None, None]

    def at(y, x):
        return padded[which, np.clip(y + 4, 0, SIDE + 7), np.clip(x + 4, 0, SIDE + 7)]

    out = (at(y0, x0) * (1 - fy) * (1 - fx) + at(y0, x0 + 1) * (1 - fy) * fx +
           at(y0 + 1, x0) * fy * (1 - fx) + at(y0 + 1, x0 + 1) * fy * fx)
    out *= rng.uniform(0.85, 1.15, (count, 1, 1))
    out += rng.normal(0, 0.04, out.shape)
    return np.clip(out, 0, 1).astype(np.float32)


def columns(x):
    """[n, c, s, s] -> [n*s*s, c*9]: the 3x3 neighbourhoods, zero outside."""
    count, chans, side, _ = x.shape
    view = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    return np.ascontiguousarray(view.transpose(0, 2, 3, 1, 4, 5)).reshape(
        count * side * side, chans * 9)


class Net:
    def __init__(self, width1, width2, rng):
        half = SIDE // 2
        shapes = [(width1, 9), (width1,), (width2, width1 * 9), (width2,),
                  (CLASSES, width2 * half * half), (CLASSES,)]
        self.width = (width1, width2)
        self.params = [
            rng.normal(0, np.sqrt(2 / s[1]), s).astype(np.float32) if len(s) == 2
            else np.zeros(s, np.float32) for s in shapes]

    def forward(self, images, drop=None):
        w1, b1, w2, b2, w3, b3 = self.params
        count, half = len(images), SIDE // 2
        col1 = columns(images[:, None])
        out1 = np.maximum(col1 @ w1.T + b1, 0)
        map1 = out1.reshape(count, SIDE, SIDE, -1).transpose(0, 3, 1, 2)
        col2 = columns(map1)
        out2 = np.maximum(col2 @ w2.T + b2, 0)
        tiles = out2.reshape(count, half, 2, half, 2, -1).transpose(0, 5, 1, 3, 2, 4)
        tiles = tiles.reshape(count, -1, 4)
        best = tiles.argmax(2)
        flat = np.take_along_axis(tiles, best[:, :, None], 2)[:, :, 0]
        if drop is not None:
            flat = flat * drop
        return flat @ w3.T + b3, (col1, out1, col2, out2, best, flat)

    def backward(self, grad, saved, drop):
        w2, w3 = self.params[2], self.params[4]
        col1, out1, col2, out2, best, flat = saved
        count, half, (width1, width2) = len(grad), SIDE // 2, self.width
        g3, gb3 = grad.T @ flat, grad.sum(0)
        gflat = grad @ w3
        if drop is not None:
            gflat = gflat * drop
        tiles = np.zeros((count, width2 * half * half, 4), np.float32)
        np.put_along_axis(tiles, best[:, :, None], gflat[:, :, None], 2)
        tiles = tiles.reshape(count, width2, half, half, 2, 2).transpose(0, 2, 4, 3, 5, 1)
        gout2 = tiles.reshape(-1, width2) * (out2 > 0)
        g2, gb2 = gout2.T @ col2, gout2.sum(0)
        gcol2 = (gout2 @ w2).reshape(count, SIDE, SIDE, width1, 3, 3)
        gmap1 = np.zeros((count, SIDE + 2, SIDE + 2, width1), np.float32)
        for dy in range(3):
            for dx in range(3):
                gmap1[:, dy:dy + SIDE, dx:dx + SIDE] += gcol2[..., dy, dx]
        gout1 = gmap1[:, 1:-1, 1:-1].reshape(-1, width1) * (out1 > 0)
        return [gout1.T @ col1, gout1.sum(0), g2, gb2, g3, gb3]


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def train(images, labels, width, decay, epochs, seed, keep=0.75, batch=64, rate=3e-3):
    """Adam with a cosine learning rate; returns the moving average of the weights."""
    rng = np.random.default_rng(seed)
    net = Net(*width, rng)
    first = [np.zeros_like(p) for p in net.params]
    second = [np.zeros_like(p) for p in net.params]
    average = [p.copy() for p in net.params]
    step, steps = 0, epochs * (-(-len(labels) // batch))
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        fresh = augment(images[order], rng)
        for at in range(0, len(order), batch):
            x, y = fresh[at:at + batch], labels[order[at:at + batch]]
            drop = ((rng.random((len(y), net.params[4].shape[1])) < keep) / keep).astype(np.float32)
            logits, saved = net.forward(x, drop)
            target = np.full((len(y), CLASSES), 0.03 / CLASSES, np.float32)
            target[np.arange(len(y)), y] += 0.97
            grads = net.backward((softmax(logits) - target) / len(y), saved, drop)
            step += 1
            lr = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            for i, g in enumerate(grads):
                first[i] += 0.1 * (g - first[i])
                second[i] += 0.001 * (g * g - second[i])
                m, v = first[i] / (1 - 0.9 ** step), second[i] / (1 - 0.999 ** step)
                net.params[i] -= (lr * (m / (np.sqrt(v) + 1e-8) +
                                        decay * net.params[i] * (g.ndim == 2))).astype(np.float32)
                average[i] += np.float32(0.01) * (net.params[i] - average[i])
    net.params = average
    return net


def accuracy(net, images, labels):
    return float((net.forward(images)[0].argmax(1) == labels).mean())


def cross_validate(images, labels, width, decay, epochs, folds=5):
    parts = np.array_split(np.random.default_rng(5).permutation(len(labels)), folds)
    right = 0
    for k, part in enumerate(parts):
        rest = np.concatenate([p for i, p in enumerate(parts) if i != k])
        net = train(images[rest], labels[rest], width, decay, epochs, 100 + k)
        right += round(accuracy(net, images[part], labels[part]) * len(part))
    return right / len(labels)


def write_files(net, held, held_labels):
    with open(HERE / "weights.bin", "wb") as f:
        f.write(b"FDW1" + struct.pack("<4I", SIDE, *net.width, CLASSES))
        for p in net.params:
            f.write(p.astype("<f4").tobytes())
    with open(HERE / "heldout.bin", "wb") as f:
        for image, label in zip(held, held_labels):
            f.write(image.tobytes() + bytes([int(label)]))


def main():
    args = argparse.ArgumentParser(description="Train the digits network.")
    args.add_argument("--cv", action="store_true", help="only print the cross-validation")
    args.add_argument("--width", default="16,32", help="channels of the two convolutions")
    args.add_argument("--decay", type=float, default=0.01)
    args.add_argument("--epochs", type=int, default=250)
    opts = args.parse_args()
    width = tuple(int(w) for w in opts.width.split(","))
    images, labels, held, held_labels = load_split()
    images01 = images.astype(np.float32) / 16
    if opts.cv:
        score = cross_validate(images01, labels, width, opts.decay, opts.epochs)
        print(f"width {width} decay {opts.decay} epochs {opts.epochs}: "
              f"{100 * score:.2f} % of {len(labels)} (5-fold)")
        return
    net = train(images01, labels, width, opts.decay, opts.epochs, TRAIN_SEED)
    write_files(net, held, held_labels)
    print(f"training part: {100 * accuracy(net, images01, labels):.2f} % of {len(labels)}")
    print(f"held out: {100 * accuracy(net, held.astype(np.float32) / 16, held_labels):.2f} % "
          f"of {len(held_labels)}")


main()
