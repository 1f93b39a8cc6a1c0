// What a start with two devices costs the processor in vmlaunch itself: from the config's text to
// the last step before QEMU, on a tree that answers at once in the kernel's place, among this
// machine's processes, each of which is looked at for users of the devices. Beside it, a shell that
// writes the same attributes and looks for these users as scripts do.

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "base/tree.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/plan/plan.hpp"
#include "launcher/steps/journal.hpp"
#include "launcher/steps/transaction.hpp"
#include "tests/support/fake_kernel.hpp"
#include "tests/support/program.hpp"

namespace {

using namespace vmlaunch;
using namespace vmlaunch::launcher;

constexpr double kLimit = 40;  // ms

constexpr const char* kConfig = R"({
  "name": "bench", "single_gpu": true,
  "pci": [{"device": "01:00.0", "functions": "all"}]
})";

/// Of this process and of its children that have ended, in ms.
double processor_time() {
  double sum = 0;
  for (const auto who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used{};
    ::getrusage(who, &used);
    for (const timeval& time : {used.ru_utime, used.ru_stime}) {
      sum += static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
    }
  }
  return sum;
}

int processes() {
  int count = 0;
  for (const std::string& name : base::Tree("").list("/proc")) {
    count += base::parse_number<int>(name) ? 1 : 0;
  }
  return count;
}

/// Changes are made by children with deadlines, and holders looked for among real processes, as on
/// a real host; only then the tree answers.
class AskedKernel final : public tests::FakeKernel {
 public:
  using FakeKernel::FakeKernel;

  void write(const std::string& path, const std::string& value) override {
    Host::write(kScratch, value);
    FakeKernel::write(path, value);
  }
  void write_to_driver(const std::string& path, const std::string& value) override {
    Host::write_to_driver(kScratch, value);
    FakeKernel::write_to_driver(path, value);
  }
  [[nodiscard]] std::vector<steps::Holder> holders(const base::PciAddress& device) const override {
    return Host::holders(device);
  }

  static constexpr const char* kScratch = "/scratch";
};

/// Two functions of a laptop's graphics card, with nodes.
void build(tests::PciTree& tree) {
  tests::add_laptop(tree);
  tests::add_system(tree);
  tests::add_desktop(tree, "0000:01:00.0");
  tree.write(tree.device("0000:01:00.0") + "/drm/card7/dev", "226:7\n");
  tree.write(tree.device("0000:01:00.1") + "/sound/card7/controlC7/dev", "116:77\n");
  tree.write(AskedKernel::kScratch, "");
}

double ours() {
  tests::PciTree tree;
  build(tree);
  const tests::Folder state;
  AskedKernel kernel(tree);
  const double start = processor_time();
  const config::VmSpec spec = config::load(config::Document("/bench.json", kConfig), "/bench.json");
  const survey::Survey survey = survey::look(tree.root(), spec, true);
  const Identity root{true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
  guardian::Seal seal;
  seal.config_name = "bench.json";
  seal.plan = plan::make_plan(spec, survey, root, Authority::root);
  const auto sealed = std::get<guardian::Seal>(guardian::decode_request(guardian::encode(seal)));
  steps::Journal journal = steps::Journal::create(state.path(), spec.name);
  const steps::Context context{
      spec.name, {1234, 1234, {}}, {}, [](int, base::UniqueFd) {}, [](const std::string&) {}};
  for (const steps::Step& step : sealed.plan.steps) {
    step->check(kernel);
  }
  for (const steps::Step& step : sealed.plan.steps) {
    steps::apply(step, kernel, context, journal);
  }
  return processor_time() - start;
}

/// The same writes, and who has the nodes open, in the words of the scripts that people use.
double scripted() {
  tests::PciTree tree;
  build(tree);
  tests::Launch launch;
  launch.arguments = {"/bin/sh",
                      "-c",
                      R"(for d in 0000:01:00.0 0000:01:00.1; do
                           ls -l /proc/[0-9]*/fd 2> /dev/null | grep -c /dev/dri/card7
                           echo on > "$0/sys/bus/pci/devices/$d/power/control"
                           echo vfio-pci > "$0/sys/bus/pci/devices/$d/driver_override"
                           echo "$d" > "$0/scratch"
                           echo "$d" > "$0/scratch"
                         done)",
                      tree.root()};
  const double start = processor_time();
  tests::Program program(launch);
  static_cast<void>(program.exit_code());
  return processor_time() - start;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench_host ROUNDS\n");
    return 2;
  }
  const int rounds = std::max(1, std::atoi(argv[1]));
  std::vector<double> script;
  std::vector<double> vmlaunch;
  for (int round = 0; round < rounds; ++round) {
    script.push_back(scripted());
    vmlaunch.push_back(ours());
  }
  const double spent = median(vmlaunch);
  std::printf(
      "processor time of the host part with two devices, %d processes, %d rounds: script %.1f ms, "
      "vmlaunch %.1f ms, ratio %.3f (at most %.0f ms: %s)\n",
      processes(),
      rounds,
      median(script),
      spent,
      spent / median(script),
      kLimit,
      spent <= kLimit ? "met" : "missed");
  return spent <= kLimit ? 0 : 1;
}
