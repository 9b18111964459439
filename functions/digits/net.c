/* Plain CPU inference: the reference. It shares no code with kernels.cu, only the order in which
 * terms are added (compiled with -ffp-contract=off), so equal answers mean something. */
#include "digits/net.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int net_load(const unsigned char *blob, size_t size, struct net *ret, char *msg, size_t msg_size)
{
    uint32_t dims[4];
    const size_t head = 4 + sizeof(dims);
    if (size < head || memcmp(blob, "FDW1", 4) != 0) {
        snprintf(msg, msg_size, "these are not weights of the digits network");
        return -1;
    }
    memcpy(dims, blob + 4, sizeof(dims));
    if (dims[0] != NET_SIDE || dims[3] != NET_CLASSES || !dims[1] || dims[1] > NET_CHANNELS_MAX ||
        !dims[2] || dims[2] > NET_CHANNELS_MAX) {
        snprintf(msg, msg_size, "the weights are for side %u, channels %u and %u, %u classes",
                 dims[0], dims[1], dims[2], dims[3]);
        return -1;
    }
    *ret = (struct net){.channels1 = dims[1], .channels2 = dims[2]};
    const size_t counts[6] = {ret->channels1 * 9, ret->channels1, ret->channels2 * ret->channels1 * 9,
                              ret->channels2, NET_CLASSES * net_features(ret), NET_CLASSES};
    const float *at = (const float *)(const void *)(blob + head);
    const float **parts[6] = {&ret->conv1, &ret->bias1, &ret->conv2,
                              &ret->bias2, &ret->fc,    &ret->bias3};
    for (int i = 0; i < 6; i++) {
        *parts[i] = at;
        at += counts[i];
        ret->floats += counts[i];
    }
    if (size != head + ret->floats * sizeof(float)) {
        snprintf(msg, msg_size, "the weights have %zu bytes instead of %zu", size,
                 head + ret->floats * sizeof(float));
        return -1;
    }
    return 0;
}

/* One output channel: starts from the bias and adds one tap of one input channel after another. */
static void conv_relu(const float *in, size_t in_channels, const float *weights, float bias,
                      float *out)
{
    for (int i = 0; i < NET_PIXELS; i++)
        out[i] = bias;
    for (size_t tap = 0; tap < in_channels * 9; tap++) {
        const float *image = in + tap / 9 * NET_PIXELS;
        int dy = (int)(tap % 9 / 3) - 1, dx = (int)(tap % 3) - 1;
        for (int y = 0; y < NET_SIDE; y++)
            for (int x = 0; x < NET_SIDE; x++)
                if ((unsigned)(y + dy) < NET_SIDE && (unsigned)(x + dx) < NET_SIDE)
                    out[y * NET_SIDE + x] += image[(y + dy) * NET_SIDE + x + dx] * weights[tap];
    }
    for (int i = 0; i < NET_PIXELS; i++)
        out[i] = out[i] > 0.0f ? out[i] : 0.0f;
}

static float max2(float a, float b)
{
    return b > a ? b : a;
}

void net_cpu(const struct net *net, const float pixels[NET_PIXELS], float logits[NET_CLASSES])
{
    enum { HALF = NET_SIDE / 2, AREA = HALF * HALF };
    float map1[NET_CHANNELS_MAX * NET_PIXELS], map2[NET_PIXELS];
    float features[NET_CHANNELS_MAX * AREA] = {0};
    for (size_t o = 0; o < net->channels1; o++)
        conv_relu(pixels, 1, net->conv1 + o * 9, net->bias1[o], map1 + o * NET_PIXELS);
    for (size_t o = 0; o < net->channels2; o++) {
        conv_relu(map1, net->channels1, net->conv2 + o * net->channels1 * 9, net->bias2[o], map2);
        for (size_t i = 0; i < AREA; i++) {
            const float *tile = map2 + i / HALF * 2 * NET_SIDE + i % HALF * 2;
            features[o * AREA + i] =
                max2(max2(tile[0], tile[1]), max2(tile[NET_SIDE], tile[NET_SIDE + 1]));
        }
    }
    for (size_t o = 0; o < NET_CLASSES; o++) {
        const float *w = net->fc + o * net_features(net);
        float sum = net->bias3[o];
        for (size_t i = 0; i < net_features(net); i++)
            sum += features[i] * w[i];
        logits[o] = sum;
    }
}

int net_answer(const float logits[NET_CLASSES], double *ret_probability)
{
    int best = 0;
    double sum = 0;
    for (int i = 1; i < NET_CLASSES; i++)
        best = logits[i] > logits[best] ? i : best;
    for (int i = 0; i < NET_CLASSES; i++)
        sum += exp((double)logits[i] - (double)logits[best]);
    *ret_probability = 1.0 / sum;
    return best;
}
