#pragma once

namespace vmlaunch::base {

/// Gives back the memory of all code that is loaded, for a process that is about to wait for long:
/// it stays in the page cache, and is mapped again as it runs. Of what was written nothing is lost.
void give_back_code();

}  // namespace vmlaunch::base
