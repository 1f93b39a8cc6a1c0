#include "launcher/steps/narrowing.hpp"

#include <algorithm>
#include <cerrno>

#include "base/errors.hpp"
#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using base::CpuSet;
using Move = std::pair<std::string, CpuSet>;

constexpr std::size_t kMostPlaces = 65536;

CpuSet united(CpuSet a, const CpuSet& b) {
  a.insert(b.begin(), b.end());
  return a;
}

/// What a VM has found: where everything was before any VM, and which CPUs are taken with its own.
struct Record {
  CpuSet cpus;   ///< its own
  CpuSet taken;  ///< by all
  std::map<std::string, CpuSet> before;
  std::optional<CpuSet> fallback;

  /// Where a thing goes once CPUs are taken. One that has no other place stays.
  [[nodiscard]] CpuSet narrowed(const CpuSet& place, const CpuSet& without) const {
    CpuSet left = base::without(place, without);
    if (left.empty() && fallback) {
      left = base::without(*fallback, without);
    }
    return left.empty() ? place : left;
  }
};

Json to_json(const Record& record, const std::string& fallback) {
  Json before = Json::array();
  for (const auto& [name, place] : record.before) {
    before.push_back({{"name", wire_text(name)}, {"cpus", base::to_string(place)}});
  }
  return {{"cpus", base::to_string(record.cpus)},
          {"taken", base::to_string(record.taken)},
          {"fallback", fallback},
          {"before", before}};
}

Record read_record(const Json& found) {
  Fields fields(found);
  Record record;
  record.cpus = read_cpus(fields, "cpus");
  record.taken = read_cpus(fields, "taken");
  for (const Json& one : fields.array("before", kMostPlaces)) {
    Fields place(one);
    const std::string name = place.text("name");
    record.before[name] = read_cpus(place, "cpus");
  }
  if (const auto fallback = record.before.find(fields.text("fallback"));
      fallback != record.before.end()) {
    record.fallback = fallback->second;
  }
  return record;
}

std::vector<Record> read_records(const std::vector<Json>& all) {
  std::vector<Record> records;
  records.reserve(all.size());
  for (const Json& found : all) {
    records.push_back(read_record(found));
  }
  return records;
}

CpuSet taken_by(const std::vector<Record>& records) {
  CpuSet taken;
  for (const Record& record : records) {
    taken.insert(record.cpus.begin(), record.cpus.end());
  }
  return taken;
}

std::optional<CpuSet> found_by(const std::vector<Record>& records, const std::string& name) {
  for (const Record& record : records) {
    if (const auto found = record.before.find(name); found != record.before.end()) {
      return found->second;
    }
  }
  return std::nullopt;
}

/// Where a thing was before any VM. What another has found counts as long as that explains where it
/// is; of what came since, the kernel has put it where the fallback was.
CpuSet place_before(const std::string& name,
                    const CpuSet& now,
                    const CpuSet& taken,
                    const std::vector<Record>& others) {
  const std::optional<CpuSet> found = found_by(others, name);
  if (found && (now == others.front().narrowed(*found, taken) || now == *found)) {
    return *found;
  }
  const bool was_put = !others.empty() && others.front().fallback && !found &&
                       now == others.front().narrowed(*others.front().fallback, taken);
  return was_put ? *others.front().fallback : now;
}

/// One that is not where it is to be.
struct Elsewhere {
  std::string name;
  CpuSet now;
  CpuSet before;
};

std::string words(const std::string& title, const CpuSet& now, const CpuSet& before) {
  return title + " is on " + base::to_string(now) + ", and was on " + base::to_string(before);
}

/// What is to be undone, and what is not ours any more.
struct WayBack {
  std::vector<Move> changes;
  std::vector<Elsewhere> changed;  ///< by somebody else
};

WayBack find_way_back(const Record& mine,
                      const std::map<std::string, CpuSet>& places,
                      const std::vector<Record>& others) {
  WayBack way;
  const CpuSet left = taken_by(others);
  const CpuSet all = united(mine.cpus, left);
  for (const auto& [name, now] : places) {
    const bool is_known = mine.before.contains(name);
    const std::optional<CpuSet> found = is_known ? mine.before.at(name) : found_by(others, name);
    if (!found && !mine.fallback) {
      continue;
    }
    const CpuSet before = found ? *found : *mine.fallback;
    const CpuSet wanted = mine.narrowed(before, left);
    const CpuSet ours = mine.narrowed(before, all);
    // Nothing of ours, or nothing any more: the kernel gives its threads all CPUs when a partition
    // ends.
    if (ours == wanted || now == wanted || base::without(before, now).empty()) {
      continue;
    }
    if (now == ours) {
      way.changes.emplace_back(name, wanted);
    } else if (is_known) {
      way.changed.push_back({name, now, before});
    }
  }
  return way;
}

}  // namespace

void Narrowing::write(Json& json) const {
  json["cpus"] = base::to_string(cpus_);
}

Json Narrowing::capture_beside(const Host& host,
                               const Context& /*context*/,
                               const std::vector<Json>& others) const {
  const std::vector<Record> records = read_records(others);
  const CpuSet taken = taken_by(records);
  Record mine;
  mine.cpus = cpus_;
  mine.taken = united(taken, cpus_);
  for (const auto& [name, now] : look(host)) {
    mine.before[name] = place_before(name, now, taken, records);
  }
  return to_json(mine, fallback());
}

void Narrowing::apply(Host& host,
                      const Context& context,
                      const Json& found,
                      const Note& /*note*/) const {
  const Record mine = read_record(found);
  std::vector<Move> changes;
  for (const auto& [name, now] : look(host)) {
    const auto before = mine.before.find(name);
    if (before != mine.before.end() && !base::common(now, cpus_).empty()) {
      const CpuSet after = mine.narrowed(before->second, mine.taken);
      if (after != now) {
        changes.emplace_back(name, after);
      }
    }
  }
  const std::vector<int> errors = put(host, changes);
  std::vector<std::pair<std::string, int>> kept;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    // One that is gone by now is nobody's.
    if (errors[i] != 0 && errors[i] != ENOENT && errors[i] != ESRCH) {
      kept.emplace_back(changes[i].first, errors[i]);
    }
  }
  if (!kept.empty()) {
    tell_of_kept(context, kept);
  }
}

void Narrowing::undo_beside(Host& host, const Json& found, const std::vector<Json>& others) const {
  const WayBack way = find_way_back(read_record(found), look(host), read_records(others));
  const std::vector<int> errors = put(host, way.changes);
  const Places now = look(host);
  std::vector<std::string> left;
  std::vector<std::string> lost;
  for (std::size_t i = 0; i < way.changes.size(); ++i) {
    const auto& [name, wanted] = way.changes[i];
    const auto place = now.find(name);
    if (place != now.end() && place->second != wanted) {
      const std::string what =
          words(title(name), place->second, wanted) + ": " +
          (errors[i] == 0 ? "the kernel did not keep it" : base::error_text(errors[i])) +
          (errors[i] == EINVAL ? ", as for CPUs that are offline; type: cat "
                                 "/sys/devices/system/cpu/online"
                               : "");
      // No other try brings such CPUs back.
      (errors[i] == EINVAL ? lost : left).push_back(what);
    }
  }
  if (!left.empty()) {
    throw Failure(ExitCode::host_not_restored, base::join(left, "; "));
  }
  if (!way.changed.empty()) {
    std::vector<std::string> changed;
    changed.reserve(way.changed.size());
    for (const Elsewhere& one : way.changed) {
      changed.push_back(words(title(one.name), one.now, one.before));
    }
    throw ChangedMeanwhile(base::join(changed, "; "));
  }
  if (!lost.empty()) {
    throw Lost(base::join(lost, "; "));
  }
}

}  // namespace vmlaunch::launcher::steps
