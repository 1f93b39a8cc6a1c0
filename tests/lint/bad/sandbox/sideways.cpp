#include <seccomp.h>

#include "base/text.hpp"
#include "hooks/runner.hpp"
