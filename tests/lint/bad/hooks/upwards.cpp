#include "launcher/plan/plan.hpp"
