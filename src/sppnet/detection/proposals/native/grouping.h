// Selective search's hierarchical grouping: the two neighbours that are most alike become one region, until one is left.
#pragma once

#include "regions.h"

// What comes out: the box of a region, the run that found it, and how many regions came after it.
struct Window {
    int32_t x0, y0, x1, y1, run, place;
};

// Pairs of neighbours as keys of a heap: the most alike first; of equals those that are there longest.
constexpr int ID_BITS = 22;
constexpr uint64_t LAST_ID = (uint64_t(1) << ID_BITS) - 1, MOST_ALIKE = 4 * WHOLE;

inline uint64_t pair_key(uint64_t likeness, uint64_t a, uint64_t b) {
    return (MOST_ALIKE - likeness) << 2 * ID_BITS | (a < b ? a : b) << ID_BITS | (a < b ? b : a);
}

class Grouping {
    struct Node {
        Region region;
        int32_t slot, first_link, seen_by;  // slot: of its profile; -1 when it has become part of another
    };
    struct Link {
        int32_t node, next;
    };
    Arena arena;
    Node* nodes;
    Counts* counts;
    Profile* profiles;
    List<Link> links;
    Heap pairs;
    int64_t pixels;
    int32_t count;
    bool by_colour;

  public:
    // Takes the table's counts over and changes them.
    Grouping(RegionTable& table, int64_t pixels, bool by_colour)
        : counts(table.counts), pixels(pixels), count(table.count), by_colour(by_colour) {
        nodes = arena.take<Node>(2 * count), profiles = arena.take<Profile>(count);
        if (arena.failed) return;
        for (int32_t i = 0; i < count; i++) {
            nodes[i] = {table.regions[i], i, -1, -1};
            profiles[i].take(counts[i], table.regions[i].size);
        }
    }
    bool failed() const { return arena.failed || links.failed || pairs.keys.failed; }

    void touch(int32_t a, int32_t b) {
        link(a, b), link(b, a);
        pairs.push(pair_key(likeness(a, b), a, b));
    }
    // Group everything, and list all regions there ever were.
    bool run(int32_t number, List<Window>& windows) {
        while (!failed() && pairs.keys.count) {
            uint64_t pair = pairs.pop();
            int32_t a = int32_t(pair >> ID_BITS & LAST_ID), b = int32_t(pair & LAST_ID);
            if (nodes[a].slot >= 0 && nodes[b].slot >= 0) join(a, b);
        }
        for (int32_t i = 0; i < count; i++) {
            const Region& r = nodes[i].region;
            windows.add({r.x0, r.y0, r.x1, r.y1, number, count - 1 - i});
        }
        return !failed() && !windows.failed;
    }

  private:
    // Selective search adds 1 - the sizes' share of the image, and 1 - the share of the gaps in their common box: together 2
    // less that box's share.
    uint64_t likeness(int32_t a, int32_t b) const {
        const Node &one = nodes[a], &other = nodes[b];
        const Profile &p = profiles[one.slot], &q = profiles[other.slot];
        uint64_t box = enclose(one.region, other.region).area();
        return 2 * WHOLE - WHOLE * box / pixels + shared(p, q, false) + (by_colour ? shared(p, q, true) : 0);
    }
    void link(int32_t from, int32_t to) {
        links.add({to, nodes[from].first_link});
        nodes[from].first_link = int32_t(links.count - 1);
    }
    void join(int32_t a, int32_t b) {
        int32_t joined = count++, slot = nodes[a].slot;
        nodes[joined] = {enclose(nodes[a].region, nodes[b].region), slot, -1, joined};
        counts[slot].add(counts[nodes[b].slot]);
        profiles[slot].take(counts[slot], nodes[joined].region.size);
        nodes[a].slot = nodes[b].slot = -1;
        const int32_t parts[] = {a, b};
        for (int32_t part : parts)
            for (int32_t i = nodes[part].first_link; i >= 0 && !failed(); i = links[i].next) {
                Node& neighbour = nodes[links[i].node];
                if (neighbour.slot < 0 || neighbour.seen_by == joined) continue;
                neighbour.seen_by = joined;
                touch(joined, links[i].node);
            }
    }
};
