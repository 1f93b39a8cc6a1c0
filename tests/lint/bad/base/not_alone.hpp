#pragma once

inline std::string not_alone() { return "the include of <string> is missing"; }
