// Threads are started for each call: tens of microseconds, for products that take milliseconds.
#include "threads.hpp"

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

void run_parts(size_t parts, void (*part)(void *context, size_t index), void *context) {
    std::mutex lock;
    std::exception_ptr failed;  // what the first part threw that did
    const auto run = [&](size_t index) {
        try {
            part(context, index);
        } catch (...) {
            const std::lock_guard<std::mutex> guard(lock);
            if (!failed) failed = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(parts);  // may throw, while nothing runs yet
    size_t index = 1;
    for (; index < parts; index++) try {
            others.emplace_back(run, index);
        } catch (const std::exception &) {
            break;  // no more threads, or no memory for one: the rest is done here
        }
    if (parts) run(0);
    for (; index < parts; index++) run(index);
    for (std::thread &other : others) other.join();
    if (failed) std::rethrow_exception(failed);
}
