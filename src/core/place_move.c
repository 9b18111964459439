/* What could be different about replicas that have a place: larger where they are, or elsewhere. It
 * assumes that who asks carries it out before anything else changes. */

#include <stddef.h>

#include "core/place_impl.h"

#define RAISE_STEP 100

int fast_fleet_raise_room(struct fast_fleet *fleet, uint64_t replica, int most_milli)
{
    const struct fast_placed *at = fast_fleet_find(fleet, replica);
    struct fast_placed placed;
    if (!at || !at->rect.quota)
        return 0;
    const int had = at->rect.quota;
    struct fast_slice slice = {at->rect.sm, had, had, at->mem_bytes};
    int now = had;
    while (now < most_milli) {
        int to = now + RAISE_STEP < most_milli ? now + RAISE_STEP : most_milli;
        slice.request_milli = slice.limit_milli = to;
        if (fast_fleet_resize(fleet, replica, &slice, &placed, NULL))
            break;
        now = to;
    }
    slice.request_milli = slice.limit_milli = had;
    if (now > had)
        fast_fleet_resize(fleet, replica, &slice, &placed, NULL);
    return now - had;
}
