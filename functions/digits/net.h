#ifndef DIGITS_NET_H
#define DIGITS_NET_H

/* The network: conv3x3 + relu, conv3x3 + relu, 2x2 maximum, fully connected. And its plain CPU form,
 * which the GPU form is checked against. Written by train.py, which documents the weights' format. */

#include <stddef.h>

enum { NET_SIDE = 8, NET_PIXELS = 64, NET_CLASSES = 10, NET_CHANNELS_MAX = 64 };

/* Pointers into the weights' file: [out][in][3][3], [classes][channels2 * 16]. */
struct net {
    size_t channels1, channels2;
    const float *conv1, *bias1, *conv2, *bias2, *fc, *bias3;
    size_t floats; /* of all six together; they follow each other in this order */
};

/* The weights that are built into the program. */
extern const unsigned char digits_weights[];
extern const size_t digits_weights_size;

/* |blob| must be aligned for float and outlive |ret|. Returns 0, or -1 with a message. */
int net_load(const unsigned char *blob, size_t size, struct net *ret, char *msg, size_t msg_size);

static inline size_t net_features(const struct net *net)
{
    return net->channels2 * (size_t)(NET_PIXELS / 4);
}

/* Pixels are 0..1. Every output is the sum of its terms in the order of the kernels in kernels.cu. */
void net_cpu(const struct net *net, const float pixels[NET_PIXELS], float logits[NET_CLASSES]);

/* The most likely digit, and how likely it is (softmax). */
int net_answer(const float logits[NET_CLASSES], double *ret_probability);

#endif
