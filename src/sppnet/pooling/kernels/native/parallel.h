// Threads for one call: those that torch keeps, or some that live for the call alone.
#pragma once

#include "exported.h"

#include <stdint.h>
#include <stdlib.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

// Ask for large pages before the memory is touched: far fewer page faults, far fewer misses of the address cache.
inline void advise_large_pages(void* start, size_t bytes) {
#ifdef __linux__
    constexpr uintptr_t LARGE = uintptr_t(2) << 20;
    uintptr_t first = ((uintptr_t)start + LARGE - 1) / LARGE * LARGE, end = ((uintptr_t)start + bytes) / LARGE * LARGE;
    if (end > first) madvise((void*)first, end - first, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}

// Memory of one thread, freed with it. One failure is remembered; later requests fail too. What small maps need lies in
// the arena itself: a call for each piece would take longer than pooling them.
struct Arena {
    static constexpr int MOST = 64;
    static constexpr size_t OWN = size_t(1) << 15;
    alignas(64) char own[OWN];
    size_t taken = 0;
    void* blocks[MOST];
    int count = 0;
    bool failed = false;

    Arena() = default;
    Arena(const Arena&) = delete;

    template <class T> T* take(int64_t elements) {
        size_t bytes = (size_t)(elements > 0 ? elements : 1) * sizeof(T);
        bytes = (bytes + 63) / 64 * 64;
        if (!failed && taken + bytes <= OWN) {
            taken += bytes;
            return (T*)(own + taken - bytes);
        }
        void* block = nullptr;
        if (!failed && count < MOST) {
#ifdef _WIN32
            block = _aligned_malloc(bytes, 64);
#else
            size_t page = size_t(2) << 20, alignment = bytes < page ? 64 : page;
            if (posix_memalign(&block, alignment, bytes)) block = nullptr;
            if (block) advise_large_pages(block, bytes);
#endif
        }
        if (!block) {
            failed = true;
            return nullptr;
        }
        return (T*)(blocks[count++] = block);
    }
    ~Arena() {
        for (int i = 0; i < count; i++)
#ifdef _WIN32
            _aligned_free(blocks[i]);
#else
            free(blocks[i]);
#endif
    }
};

template <class Work> struct Shared {
    Work* work;
    int64_t tasks, next;
    int failed;
};

template <class Work> void take_tasks(Shared<Work>* shared) {
    auto state = shared->work->start();
    if (!state.ready()) {
        __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (;;) {
        int64_t task = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
        if (task >= shared->tasks || __atomic_load_n(&shared->failed, __ATOMIC_RELAXED)) break;
        if (!shared->work->run(task, state)) __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);  // stores past the caches, too, are there for whoever reads next
}

#ifdef _WIN32
using Thread = HANDLE;
template <class Work> DWORD WINAPI enter(void* shared) {
    take_tasks((Shared<Work>*)shared);
    return 0;
}
template <class Work> bool start_thread(Thread* thread, Shared<Work>* shared) {
    return (*thread = CreateThread(nullptr, 0, enter<Work>, shared, 0, nullptr)) != nullptr;
}
inline void join_thread(Thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
#else
using Thread = pthread_t;
template <class Work> void* enter(void* shared) {
    take_tasks((Shared<Work>*)shared);
    return nullptr;
}
template <class Work> bool start_thread(Thread* thread, Shared<Work>* shared) {
    return pthread_create(thread, nullptr, enter<Work>, shared) == 0;
}
inline void join_thread(Thread thread) { pthread_join(thread, nullptr); }
#endif

// OpenMP's function that runs another one in a team of threads, and the process that it was found in. After their work
// torch's threads stay awake for a while: others would have to share processors with them. A fork leaves them behind.
using RunTeam = void (*)(void (*)(void*), void*, unsigned, unsigned);
inline RunTeam run_team = nullptr;
inline long team_process = 0;

inline long this_process() {
#ifdef _WIN32
    return 0;
#else
    return long(getpid());
#endif
}

EXPORTED void sppnet_use_team(void* function) {
    run_team = (RunTeam)function;
    team_process = this_process();
}

template <class Work> void join_team(void* shared) { take_tasks((Shared<Work>*)shared); }

// Run work.run(0..tasks-1) on up to `threads` threads, this one among them. 0, or 1 without memory.
template <class Work> int run_parallel(Work& work, int64_t tasks, int64_t threads) {
    constexpr int MOST = 256;
    Shared<Work> shared = {&work, tasks, 0, 0};
    if (threads > tasks) threads = tasks;
    if (threads > 1 && run_team && team_process == this_process()) {
        run_team(join_team<Work>, &shared, unsigned(threads), 0);
        return shared.failed;
    }
    Thread others[MOST];
    int started = 0;
    for (int64_t i = 1; i < threads && started < MOST; i++)
        if (start_thread(&others[started], &shared)) started++;
    take_tasks(&shared);
    for (int i = 0; i < started; i++) join_thread(others[i]);
    return shared.failed;
}
