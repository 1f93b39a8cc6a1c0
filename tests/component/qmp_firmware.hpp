#pragma once

#include <string>
#include <string_view>

#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::qmp::tests {

using namespace std::string_view_literals;

// Code for firmware(), in real mode.

// mov dx, 0x443; mov al, 0x0f; out dx, al; hlt: starts the watchdog with no time left.
constexpr std::string_view kLetWatchdogExpire = "\xba\x43\x04\xb0\x0f\xee\xf4"sv;
// mov al, 0xfe; out 0x64, al; hlt: asks the keyboard controller for a reset.
constexpr std::string_view kReset = "\xb0\xfe\xe6\x64\xf4"sv;
// mov dx, 0x505; mov al, 1; out dx, al; hlt: tells the pvpanic device of a panic.
constexpr std::string_view kPanic = "\xba\x05\x05\xb0\x01\xee\xf4"sv;
// mov dx, 0x505; mov al, 2; out dx, al; hlt: tells it of one that the guest's second kernel sees
// to.
constexpr std::string_view kCrashDump = "\xba\x05\x05\xb0\x02\xee\xf4"sv;
// mov dx, 0x501; mov al, 1; out dx, al; hlt: ends QEMU by the isa-debug-exit device, with code 3.
constexpr std::string_view kExit = "\xba\x01\x05\xb0\x01\xee\xf4"sv;
// mov edx, 0xcf8; mov eax, 0x80000b40; out dx, eax; mov dl, 0xfc; mov ax, 0x601; out dx, eax;
// mov dl, 0xf8; mov eax, 0x80000b80; out dx, eax; mov dl, 0xfc; mov al, 1; out dx, al;
// mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt:
// gives the power management of a pc its ports, and turns the power off.
constexpr std::string_view kPowerOff =
    "\xba\xf8\x0c"
    "\x66\xb8\x40\x0b\x00\x80\x66\xef"
    "\xb2\xfc\x66\xb8\x01\x06\x00\x00\x66\xef"
    "\xb2\xf8\x66\xb8\x80\x0b\x00\x80\x66\xef"
    "\xb2\xfc\xb0\x01\xee"
    "\xba\x04\x06\xb8\x00\x20\xef\xf4"sv;

/// A file of firmware that does nothing but run this code.
inline std::string firmware(const vmlaunch::tests::Folder& folder, std::string_view code) {
  constexpr std::size_t kSize = 65536;
  constexpr std::size_t kCode = 0xf000;
  // Where the processor begins: a jump to the code.
  constexpr std::size_t kBegin = 0xfff0;
  constexpr std::string_view kJump = "\xe9\x0d\xf0"sv;
  REQUIRE(code.size() <= kBegin - kCode);
  std::string image(kSize, '\0');
  image.replace(kCode, code.size(), code);
  image.replace(kBegin, kJump.size(), kJump);
  return folder.write("firmware", image);
}

}  // namespace vmlaunch::qmp::tests
