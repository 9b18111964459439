/* Decides nothing; keeps an order. A treap's shape depends only on the keys and on the priorities,
 * which are a hash of the id, so that two runs are equal. Recursion is as deep as the tree, about
 * 2 log2(n). */
#include "core/sched_tree.h"

#include <stddef.h>

static bool before(const struct fast_tree_node *a, const struct fast_tree_node *b)
{
    for (int i = 0; i < FAST_TREE_KEYS; i++)
        if (a->key[i] != b->key[i])
            return a->key[i] < b->key[i];
    return a->id < b->id;
}

static uint32_t hash(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static void pull(struct fast_tree_node *n)
{
    n->min_width = n->width;
    if (n->left && n->left->min_width < n->min_width)
        n->min_width = n->left->min_width;
    if (n->right && n->right->min_width < n->min_width)
        n->min_width = n->right->min_width;
}

/* Splits |n| into what comes before |at| and what comes after it. */
static void split(struct fast_tree_node *n, const struct fast_tree_node *at,
                  struct fast_tree_node **ret_left, struct fast_tree_node **ret_right)
{
    if (!n) {
        *ret_left = *ret_right = NULL;
        return;
    }
    if (before(n, at)) {
        split(n->right, at, &n->right, ret_right);
        *ret_left = n;
    } else {
        split(n->left, at, ret_left, &n->left);
        *ret_right = n;
    }
    pull(n);
}

static struct fast_tree_node *merge(struct fast_tree_node *a, struct fast_tree_node *b)
{
    if (!a || !b)
        return a ? a : b;
    if (a->prio >= b->prio) {
        a->right = merge(a->right, b);
        pull(a);
        return a;
    }
    b->left = merge(a, b->left);
    pull(b);
    return b;
}

static struct fast_tree_node *insert(struct fast_tree_node *n, struct fast_tree_node *node)
{
    if (!n || node->prio > n->prio) {
        split(n, node, &node->left, &node->right);
        pull(node);
        return node;
    }
    if (before(node, n))
        n->left = insert(n->left, node);
    else
        n->right = insert(n->right, node);
    pull(n);
    return n;
}

static struct fast_tree_node *take(struct fast_tree_node *n, const struct fast_tree_node *node)
{
    if (!n)
        return NULL;
    if (n == node)
        return merge(n->left, n->right);
    if (before(node, n))
        n->left = take(n->left, node);
    else
        n->right = take(n->right, node);
    pull(n);
    return n;
}

void fast_tree_insert(struct fast_tree *t, struct fast_tree_node *node)
{
    node->left = node->right = NULL;
    node->prio = hash((uint32_t)node->id + 1);
    node->in = true;
    t->root = insert(t->root, node);
    t->count++;
}

void fast_tree_remove(struct fast_tree *t, struct fast_tree_node *node)
{
    if (!node->in)
        return;
    t->root = take(t->root, node);
    node->in = false;
    t->count--;
}

struct fast_tree_node *fast_tree_first(const struct fast_tree *t)
{
    struct fast_tree_node *n = t->root;
    while (n && n->left)
        n = n->left;
    return n;
}

struct fast_tree_node *fast_tree_first_fit(const struct fast_tree *t, int width)
{
    struct fast_tree_node *n = t->root;
    if (!n || n->min_width > width)
        return NULL;
    for (;;) {
        if (n->left && n->left->min_width <= width)
            n = n->left;
        else if (n->width <= width)
            return n;
        else
            n = n->right;
    }
}

static int check(const struct fast_tree_node *n, const struct fast_tree_node *low,
                 const struct fast_tree_node *high)
{
    if (!n)
        return 0;
    if (!n->in || (low && !before(low, n)) || (high && !before(n, high)))
        return -1;
    if ((n->left && n->left->prio > n->prio) || (n->right && n->right->prio > n->prio))
        return -1;
    struct fast_tree_node copy = *n;
    pull(&copy);
    int l = check(n->left, low, n), r = check(n->right, n, high);
    return copy.min_width != n->min_width || l < 0 || r < 0 ? -1 : l + r + 1;
}

bool fast_tree_valid(const struct fast_tree *t)
{
    return check(t->root, NULL, NULL) == t->count;
}
