#pragma once

#include <string>
#include <vector>

namespace vmlaunch::qmp::tests {

/// Texts that QEMU's parser refuses: no UTF-8, or with a noncharacter.
inline const std::vector<std::string> kUnreadable = {"\xff",
                                                     "\xc0\xaf",
                                                     "\xc3",
                                                     "\xed\xa0\x80",
                                                     "\xf4\x90\x80\x80",
                                                     "\xef\xbf\xbe",
                                                     "\xef\xbf\xbf",
                                                     "\xef\xb7\x90",
                                                     "\xef\xb7\xaf",
                                                     "\xf0\x9f\xbf\xbe",
                                                     "\xf4\x8f\xbf\xbf"};

}  // namespace vmlaunch::qmp::tests
