// Threads are started for each call: tens of microseconds, for products that take milliseconds.
#include "threads.hpp"

#include <system_error>
#include <thread>
#include <vector>

void run_parts(size_t parts, void (*part)(void *context, size_t index), void *context) {
    std::vector<std::thread> others;
    size_t index = 1;
    for (; index < parts; index++) try {
            others.emplace_back(part, context, index);
        } catch (const std::system_error &) {
            break;  // no more threads to be had: the rest is done here
        }
    if (parts) part(context, 0);
    for (; index < parts; index++) part(context, index);
    for (std::thread &other : others) other.join();
}
