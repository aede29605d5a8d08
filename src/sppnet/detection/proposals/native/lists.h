// A list that grows. One failure is remembered; whatever is added afterwards is lost.
#pragma once

#include <stdint.h>
#include <stdlib.h>

template <class T> struct List {
    T* items = nullptr;
    int64_t count = 0, room = 0;
    bool failed = false;

    List() = default;
    List(const List&) = delete;
    ~List() { free(items); }

    T& operator[](int64_t i) { return items[i]; }
    void add(const T& item) {
        if (count < room || grow()) items[count++] = item;
    }

  private:
    bool grow() {
        int64_t more = room ? 2 * room : 256;
        void* larger = failed ? nullptr : realloc(items, size_t(more) * sizeof(T));
        if (!larger) return !(failed = true);
        items = (T*)larger, room = more;
        return true;
    }
};

// Numbers that differ, the smallest first out.
struct Heap {
    List<uint64_t> keys;

    void push(uint64_t key) {
        keys.add(key);
        if (keys.failed) return;
        int64_t i = keys.count - 1;
        for (; i && keys[(i - 1) / 2] > key; i = (i - 1) / 2) keys[i] = keys[(i - 1) / 2];
        keys[i] = key;
    }
    uint64_t pop() {
        uint64_t least = keys[0], last = keys[--keys.count];
        int64_t i = 0;
        for (int64_t child; (child = 2 * i + 1) < keys.count; i = child) {
            if (child + 1 < keys.count && keys[child + 1] < keys[child]) child++;
            if (keys[child] >= last) break;
            keys[i] = keys[child];
        }
        keys[i] = last;
        return least;
    }
};
