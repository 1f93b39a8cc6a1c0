#include "launcher/plan/qemu_args.hpp"

#include <algorithm>
#include <utility>

#include "launcher/exit_code.hpp"
#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;

/// More threads than that only wait for each other and for the memory.
constexpr unsigned kMostPreallocThreads = 8;

/// QEMU's own filter, beneath the policy's.
void sandbox(Arguments& args) {
  const config::Sandbox mode = args.spec.sandbox;
  args.plan.qemu.calls.mode = mode;
  if (mode == config::Sandbox::off) {
    args.plan.warnings.emplace_back(
        "QEMU may make any system call and sees all files of its user's, as \"sandbox\": \"off\" "
        "asks for: a guest that breaks out of it finds the host open");
    return;
  }
  if (mode == config::Sandbox::log) {
    args.plan.warnings.emplace_back(
        "system calls that no device of this VM needs are only told, as \"sandbox\": \"log\" asks "
        "for: that is for finding out what is missing, not for work");
    return;
  }
  args.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

void monitor(Arguments& args) {
  args.add("-chardev", "socket,id=qmp,fd=" + std::to_string(kQmpFd));
  args.add("-mon", "chardev=qmp,mode=control");
}

void machine(Arguments& args) {
  std::string options = std::string(to_string(args.spec.machine)) + ",memory-backend=ram";
  if (args.spec.uefi) {
    options += ",pflash0=uefi-code,pflash1=uefi-vars";
  }
  // Its interrupts are QEMU's to make, and guests of KVM have better clocks.
  if (args.kvm || args.spec.hpet) {
    options += args.spec.hpet.value_or(false) ? ",hpet=on" : ",hpet=off";
  }
  if (args.kvm && !args.spec.hpet) {
    args.tell("no HPET, since KVM's guests have clocks that cost less", "\"hpet\": true");
  }
  args.add("-machine", options);
  args.add("-accel", args.kvm ? "kvm" : "tcg");
  if (args.kvm) {
    args.need_calls("kvm");
  }
}

void memory(Arguments& args) {
  const base::ByteSize size = args.spec.memory.size;
  args.add("-m", "size=" + std::to_string(size.bytes / base::kMiB) + "M");
  Json backend = {{"qom-type", "memory-backend-memfd"}, {"id", "ram"}, {"size", size.bytes}};
  if (!args.plan.memory.nodes.empty()) {
    backend["host-nodes"] = args.plan.memory.nodes;
    backend["policy"] = "bind";
  }
  if (args.plan.memory.page) {
    // QEMU makes the threads one by one and lets each begin at once, which keeps the next from
    // being made while it runs; one that a context makes does not wait for that.
    args.add_json("-object", Json{{"qom-type", "thread-context"}, {"id", "prealloc"}});
    backend.update({{"hugetlb", true},
                    {"hugetlbsize", args.plan.memory.page->bytes},
                    {"prealloc", true},
                    {"prealloc-threads", std::clamp(args.survey.cpus, 1U, kMostPreallocThreads)},
                    {"prealloc-context", "prealloc"}});
    // The kernel populates a range under the lock that a thread's first malloc wants for an arena
    // of its own: one thread would touch its pages only after the other.
    args.plan.qemu.environment.emplace_back("MALLOC_ARENA_MAX=1");
  }
  args.add_json("-object", backend);
}

void linux_boot(Arguments& args) {
  if (!args.spec.linux_boot) {
    return;
  }
  args.add("-kernel", args.reopened("kernel", args.spec.linux_boot->kernel));
  if (args.spec.linux_boot->initrd) {
    args.add("-initrd", args.reopened("initrd", *args.spec.linux_boot->initrd));
  }
  if (!args.spec.linux_boot->append.empty()) {
    args.add("-append", args.spec.linux_boot->append);
  }
}

void flash(Arguments& args, const char* node, FileUse file) {
  const bool readonly = file.access == FileUse::Access::read;
  const Json protocol = {{"driver", "file"},
                         {"filename", args.fdset(std::move(file))},
                         {"node-name", std::string(node) + "-file"},
                         {"read-only", readonly}};
  args.add_json("-blockdev", protocol);
  args.add_json("-blockdev",
                Json{{"driver", "raw"},
                     {"file", std::string(node) + "-file"},
                     {"node-name", node},
                     {"read-only", readonly}});
}

void uefi(Arguments& args) {
  if (!args.spec.uefi) {
    return;
  }
  const bool complete = args.spec.uefi->code && args.spec.uefi->vars_template;
  if (!complete && !args.survey.uefi) {
    throw Failure(ExitCode::preflight,
                  "Cannot find a UEFI build on this host, which \"uefi\": true needs; type: "
                  "apt install ovmf, or name one with \"code\" and \"template\" under "
                  "\"firmware\"");
  }
  const survey::Uefi host = args.survey.uefi.value_or(survey::Uefi{});
  flash(args, "uefi-code", {"UEFI code", args.spec.uefi->code.value_or(host.code)});
  flash(args,
        "uefi-vars",
        {"UEFI variables",
         args.spec.uefi->vars,
         FileUse::Access::read_write,
         FileUse::Create::from_template,
         args.spec.uefi->vars_template.value_or(host.vars_template)});
}

void serial(Arguments& args) {
  if (args.spec.serial.kind == config::Serial::Kind::none) {
    return;
  }
  if (args.spec.serial.kind == config::Serial::Kind::stdio) {
    // Never the terminal itself: a hostile guest's QEMU could type into it.
    args.plan.qemu.serial_stdio = true;
    args.add("-chardev", "socket,id=serial0,fd=" + std::to_string(kSerialFd));
  } else {
    const std::string path = args.fdset(
        {"serial log", args.spec.serial.file, FileUse::Access::append, FileUse::Create::empty});
    args.add("-chardev", "file,id=serial0,append=on,path=" + path);
  }
  args.add("-serial", "chardev:serial0");
}

/// Windows keeps local time in the clock, and counts its ticks: what it missed is sent later.
void clock(Arguments& args) {
  if (args.spec.rtc_base == config::RtcBase::localtime) {
    args.add("-rtc", "base=localtime,driftfix=slew");
  }
}

}  // namespace

void add_qemu_arguments(const VmSpec& spec, const survey::Survey& survey, bool kvm, Plan& plan) {
  Arguments args{spec, survey, kvm, plan};
  args.add("-name", "guest=" + spec.name + ",process=" + spec.name + ",debug-threads=on");
  args.add("-nodefaults");
  args.add("-no-user-config");
  sandbox(args);
  add_root(args);
  args.add("-S");
  if (args.spec.on_reboot == config::OnReboot::restart) {
    args.add("-action", "reboot=shutdown");
  }
  monitor(args);
  machine(args);
  add_cpu(args);
  memory(args);
  linux_boot(args);
  uefi(args);
  add_disks(args);
  add_network(args);
  add_pci_devices(args);
  serial(args);
  add_video(args);
  add_display(args);
  add_usb(args);
  add_audio(args);
  add_hotplug(args);
  clock(args);
  for (const std::string& argument : spec.extra_args) {
    args.add(argument);
  }
}

}  // namespace vmlaunch::launcher::plan
