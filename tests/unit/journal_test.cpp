#include "launcher/steps/journal.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

TEST_CASE("journal: cut at any byte it holds what was written before the cut", "[steps]") {
  const Folder folder;
  std::vector<std::size_t> sizes;
  {
    Journal journal = Journal::create(folder.path(), "vm");
    const auto note_size = [&] { sizes.push_back(text_of(folder.file("vm")).size()); };
    note_size();
    journal.begin(make_cgroup("vm"), {{"path", "/x"}, {"made", true}});
    note_size();
    journal.begin(start_qemu(true), {{"cgroup", "/x"}, {"pid", 0U}, {"start", 0U}});
    note_size();
    journal.note(1, {{"pid", 17U}});
    note_size();
    journal.settle(1);
    note_size();
  }
  const std::string whole = text_of(folder.file("vm"));
  REQUIRE(sizes.back() == whole.size());
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    INFO(length);
    folder.write("vm", whole.substr(0, length), 0600);
    const auto journal = Journal::open(folder.path(), "vm");
    REQUIRE(journal);
    const auto& entries = journal->entries();
    CHECK(entries.size() == static_cast<std::size_t>(length >= sizes[1]) +
                                static_cast<std::size_t>(length >= sizes[2]));
    if (entries.size() == 2) {
      CHECK(entries[1].found.at("pid") == (length >= sizes[3] ? 17U : 0U));
      CHECK(entries[1].settled == (length >= sizes[4]));
      CHECK_FALSE(entries[0].settled);
    }
    // To look changes nothing.
    CHECK(text_of(folder.file("vm")).size() == length);
  }
}

TEST_CASE("journal: behind a line that was cut off the next one stands alone", "[steps]") {
  const Folder folder;
  { Journal::create(folder.path(), "vm").begin(make_cgroup("vm"), Json::object()); }
  const std::string whole = text_of(folder.file("vm"));
  folder.write("vm", whole + whole.substr(0, 20), 0600);
  { Journal::open(folder.path(), "vm")->begin(load_driver("vfio-pci"), Json::object()); }
  CHECK(Journal::open(folder.path(), "vm")->entries().size() == 2);
}

TEST_CASE("journal: a line that a full disk cut off counts for nothing", "[steps]") {
  const Folder folder;
  Journal journal = Journal::create(folder.path(), "vm");
  journal.begin(make_cgroup("vm"), Json::object());
  {
    const FullDisk full(text_of(folder.file("vm")).size() + 10);
    CHECK_THROWS_AS(journal.begin(load_driver("vfio-pci"), Json::object()), std::system_error);
  }
  CHECK(journal.entries().size() == 1);
  journal.begin(load_driver("vfio-pci"), Json::object());
  CHECK(Journal::open(folder.path(), "vm")->entries().size() == 2);
}

TEST_CASE("journal: garbage is reported and kept, and nothing of it is executed", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all(
        {keep_awake(kGpu), override_driver(kGpu, "nouveau", "vfio-pci")}, kernel, journal));
  }
  const auto changed = vmlaunch::tests::snapshot(laptop.tree);
  const std::string whole = text_of(laptop.state.file("vm"));
  std::vector<std::string> damaged = {
      "garbage\n", whole + "x\n", "\n" + whole, whole + whole, whole.substr(whole.find('\n') + 1)};
  // Not its last byte: without that the last line is one that was cut off.
  for (std::size_t i = 0; i + 1 < whole.size(); i += 7) {
    std::string one = whole;
    one[i] = one[i] == '\n' ? ' ' : static_cast<char>(one[i] ^ 1);
    damaged.push_back(one);
  }
  for (const std::string& text : damaged) {
    INFO(text);
    laptop.state.write("vm", text, 0600);
    const auto undone = recover_vm(kernel, laptop.folders(), "vm");
    REQUIRE(undone);
    CHECK(undone->code == ExitCode::host_not_restored);
    REQUIRE(undone->leftovers.size() == 1);
    CHECK(undone->leftovers[0].starts_with("Cannot use the journal " + laptop.state.file("vm")));
    CHECK(text_of(laptop.state.file("vm")) == text);
    CHECK(vmlaunch::tests::difference(changed, vmlaunch::tests::snapshot(laptop.tree)).empty());
  }
}

TEST_CASE("journal: only a file of ours that others cannot write is believed", "[steps]") {
  const Folder folder;
  { Journal::create(folder.path(), "vm").begin(load_driver("vfio-pci"), Json::object()); }
  const std::string path = folder.file("vm");
  const auto refused = [&] {
    try {
      static_cast<void>(Journal::open(folder.path(), "vm"));
      return false;
    } catch (const JournalError&) {
      return true;
    }
  };
  CHECK_FALSE(refused());
  for (const mode_t mode : {0620U, 0602U, 0640U}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    CHECK(refused());
  }
  REQUIRE(::rename(path.c_str(), folder.file("other").c_str()) == 0);
  REQUIRE(::chmod(folder.file("other").c_str(), 0600) == 0);
  REQUIRE(::symlink("other", path.c_str()) == 0);
  CHECK(refused());
  REQUIRE(::unlink(path.c_str()) == 0);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(refused());
}

TEST_CASE("journal: one of an earlier boot is dropped and undoes nothing", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({keep_awake(kGpu)}, kernel, journal));
  }
  // Written as another boot would have: the header's line with another id and its checksum.
  const std::string path = laptop.state.file("vm");
  const std::string whole = text_of(path);
  const std::string header = whole.substr(0, whole.find('\n'));
  const Json first = Json::parse(header.substr(9));
  REQUIRE(::unlink(path.c_str()) == 0);
  const std::string other = R"({"boot":"another","journal":1,"vm":"vm"})";
  CHECK(first.at("journal") == 1);
  laptop.state.write("vm", "39fbf330 " + other + "\n" + whole.substr(whole.find('\n') + 1), 0600);
  const auto changed = vmlaunch::tests::snapshot(laptop.tree);
  const auto undone = recover_vm(kernel, laptop.folders(), "vm");
  REQUIRE(undone);
  INFO((undone->leftovers.empty() ? "" : undone->leftovers[0]));
  CHECK(undone->code == ExitCode::ended);
  CHECK(undone->restored.empty());
  CHECK(vmlaunch::tests::difference(changed, vmlaunch::tests::snapshot(laptop.tree)).empty());
  CHECK(laptop.state.names().empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
