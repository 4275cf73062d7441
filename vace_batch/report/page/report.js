// The report's page. Text from manifests and results only ever becomes text nodes, values and quoted relative addresses.
"use strict";

(() => {
  const ON_PAGE = 50;
  const $ = (id) => document.getElementById(id);
  const rows = { count: 0 };        // the index by column: rows.job_id[3]
  const haystacks = [];             // what is searched of each row
  const loading = new Map();        // scripts asked for, by name
  const details = new Map();        // the last pages of clips, by number
  let meta = null, numbers = new Map(), chosen = [], page = 0, sorted = { by: null, down: false }, decisions = {}, clip = null;
  let indexed = 0;

  // --- data ----------------------------------------------------------------------------------------------------------

  window.vaceBatchData = (kind, number, text) => {
    const value = JSON.parse(text);
    if (kind === "meta") meta = value;
    if (kind === "index") addIndex(number, value);
    if (kind === "clips") {
      if (details.size > 8) details.delete(details.keys().next().value);
      details.set(number, value);
    }
  };

  function load(name) {
    if (!loading.has(name)) {
      loading.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = name;
        script.onload = () => { script.remove(); resolve(); };
        script.onerror = () => { loading.delete(name); reject(new Error(name + " cannot be read")); };
        document.head.append(script);
      }));
    }
    return loading.get(name);
  }

  const dataName = (kind, number) => `data/${kind}-${String(number).padStart(4, "0")}.js`;

  function addIndex(number, columns) {
    const start = number * meta.index_rows;
    for (const [name, column] of Object.entries(columns)) {
      const values = Array.isArray(column) ? column : column.rows.map((at) => column.values[at]);
      const all = rows[name] || (rows[name] = new Array(meta.clips));
      for (let i = 0; i < values.length; i++) all[start + i] = values[i];
    }
    const size = columns.gpu_s.length;
    for (let i = start; i < start + size; i++) {
      haystacks[i] = meta.searched.map((name) => rows[name][i]).join("\n").toLowerCase();
      numbers.set(rows.job_id[i], i);
    }
    rows.count += size;
  }

  async function details_of(number) {
    const at = Math.floor(number / meta.page_rows);
    if (!details.has(at)) {
      const name = dataName("clips", at);
      loading.delete(name);
      await load(name);
    }
    return details.get(at)[number % meta.page_rows];
  }

  // --- small things ---------------------------------------------------------------------------------------------------

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
    return node;
  }

  const WORDS = new Set(["done", "failed", "skipped", "pending", "pass", "review", "fail", "accept", "redo"]);
  const badge = (word, text) => make("span", { class: "badge" + (WORDS.has(word) ? " is-" + word : "") }, text || word);
  const count = (number) => Number(number).toLocaleString("en-US");
  const fixed = (number, digits) => Number(number).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const isoTime = (unix) => (unix === null ? "" : new Date(unix * 1000).toISOString().slice(0, 16).replace("T", " "));
  const clipLink = (number) => "#clip/" + encodeURIComponent(rows.job_id[number]);

  // --- the list ---------------------------------------------------------------------------------------------------------

  const FILTERS = ["status", "verdict", "checks", "task"];
  const VERDICTS = ["pass", "review", "fail"];

  function fillFilters() {
    for (const name of FILTERS) {
      const select = $("filter-" + name), kept = select.value;
      const found = new Set(name === "checks" ? rows.checks.flatMap((words) => words.split(" ")) : rows[name]);
      const values = name === "checks" ? [...[...found].filter(Boolean).sort(), "none"] : name === "verdict" ? [...VERDICTS.filter((word) => found.has(word)), ...(found.has("") ? ["none"] : [])] : [...found].sort();
      select.replaceChildren(make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value }, value)));
      select.value = kept;
    }
  }

  function choose() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = FILTERS.map((name) => [rows[name], $("filter-" + name).value, name === "checks"]).filter(([, value]) => value)
      .map(([column, value, some]) => (value === "none" ? [column, "", false] : [column, value, some]));
    const tried = $("filter-tried").value;
    const review = $("filter-review").value;
    const found = [];
    for (let i = 0; i < rows.count; i++) {
      if (!wanted.every(([column, value, some]) => (some ? column[i].split(" ").includes(value) : column[i] === value))) continue;
      if (tried && (tried === "again") !== rows.attempts[i] > 1) continue;
      if (!words.every((word) => haystacks[i].includes(word))) continue;
      if (review && (decisionOf(rows.job_id[i]) || "open") !== review) continue;
      found.push(i);
    }
    if (sorted.by) order(found);
    chosen = found;
  }

  function order(found) {
    const column = rows[sorted.by], sign = sorted.down ? -1 : 1;
    const empty = (value) => value === null || value === "";
    const collator = new Intl.Collator("en", { numeric: true });
    const isText = typeof column.find((value) => value !== null) === "string";
    const ranks = isText ? new Map([...new Set(column)].sort(collator.compare).map((value, rank) => [value, rank])) : null;
    const key = (i) => (ranks ? ranks.get(column[i]) : column[i]);
    found.sort((a, b) => (empty(column[a]) - empty(column[b])) || sign * (key(a) - key(b)) || a - b);
  }

  function showRows() {
    const pages = Math.max(1, Math.ceil(chosen.length / ON_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const some = chosen.slice(page * ON_PAGE, (page + 1) * ON_PAGE);
    $("rows").replaceChildren(...some.map(tableRow));
    if (!some.length) $("rows").append(make("tr", {}, make("td", { colspan: 10, class: "faint" }, "No clip matches.")));
    const all = chosen.length === meta.clips;
    $("found").textContent = `${all ? count(meta.clips) : `${count(chosen.length)} of ${count(meta.clips)}`} clips`
      + (rows.count < meta.clips ? `; ${count(rows.count)} are loaded` : "");
    $("page-text").textContent = `Page ${count(page + 1)} of ${count(pages)}`;
    $("page-first").disabled = $("page-previous").disabled = page === 0;
    $("page-next").disabled = $("page-last").disabled = page === pages - 1;
    for (const th of document.querySelectorAll("#table th")) {
      if (th.dataset.sort === sorted.by) th.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
  }

  function tableRow(i) {
    const decision = decisionOf(rows.job_id[i]);
    const number = (text) => make("td", { class: "number" }, text);
    return make("tr", {},
      make("td", {}, make("a", { href: clipLink(i) }, rows.job_id[i]), decision ? " " : null, decision ? badge(decision) : null),
      make("td", {}, badge(rows.status[i])),
      make("td", {}, rows.verdict[i] ? badge(rows.verdict[i]) : ""),
      make("td", {}, rows.checks[i].split(" ").join(", ")),
      make("td", {}, make("span", { class: "reason", title: rows.reason[i] }, rows.reason[i])),
      make("td", {}, rows.task[i]),
      number(count(rows.windows[i])), number(fixed(rows.gpu_s[i], 1)), number(count(rows.attempts[i])), number(isoTime(rows.ended_s[i])));
  }

  function changed() { page = 0; choose(); showRows(); }

  function turn(to, focus) {
    page = to;
    showRows();
    if (focus) rowLinks()[0]?.focus();
  }

  const rowLinks = () => [...document.querySelectorAll("#rows a")];

  function moveInList(by) {
    const links = rowLinks(), at = links.indexOf(document.activeElement), next = at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by;
    if (next >= 0 && next < links.length) { links[next].focus(); return; }
    const pages = Math.ceil(chosen.length / ON_PAGE);
    if (by > 0 && page + 1 < pages) turn(page + 1, true);
    if (by < 0 && page > 0) { turn(page - 1); rowLinks().at(-1)?.focus(); }
  }

  // --- one clip ---------------------------------------------------------------------------------------------------------

  async function showClip(jobId) {
    const number = numbers.get(jobId);
    if (number === undefined) { location.hash = "#clips"; return; }
    clip = null;
    const found = await details_of(number);
    clip = found;
    const at = chosen.indexOf(number);
    $("h-clip").textContent = found.job_id;
    document.title = `${found.job_id} · vace-batch report`;
    $("clip-place").textContent = at < 0 ? "" : `${count(at + 1)} of ${count(chosen.length)}`;
    $("clip-previous").disabled = at <= 0;
    $("clip-next").disabled = at < 0 || at + 1 >= chosen.length;
    $("clip-badges").replaceChildren(...[badge(found.status), found.verdict ? badge(found.verdict) : null].filter(Boolean));
    showDecision();
    showMedia(found);
    $("clip-text").replaceChildren(...aboutClip(found));
    show("clip");
    $("h-clip").focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  function moveInClips(by) {
    const to = chosen[chosen.indexOf(numbers.get(clip.job_id)) + by];
    if (to !== undefined) location.hash = clipLink(to);
  }

  function section(title, ...content) {
    return make("section", {}, make("h2", {}, title), ...content);
  }

  function pairs(object) {
    return make("dl", { class: "pairs" }, ...Object.entries(object).filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value instanceof Node ? value : plain(value))]));
  }

  const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  const file = (uri, link) => (!uri ? null : link ? make("a", { href: link }, uri) : uri);
  const list = (texts) => make("ul", { class: "reasons" }, ...texts.map((text) => make("li", {}, text)));

  function small(header, body) {
    const cell = (tag, value) => make(tag, { class: typeof value === "number" ? "number" : null, scope: tag === "th" ? "col" : null },
      typeof value === "number" ? value.toLocaleString("en-US", { maximumFractionDigits: 2 }) : value ?? "");
    const isNumber = header.map((_, at) => body.length > 0 && typeof body[0][at] === "number");
    return make("table", { class: "small" },
      make("thead", {}, make("tr", {}, ...header.map((name, at) => make("th", { scope: "col", class: isNumber[at] ? "number" : null }, name)))),
      make("tbody", {}, ...body.map((values) => make("tr", {}, ...values.map((value) => cell("td", value))))));
  }

  function aboutClip(found) {
    const parts = [];
    if (found.reasons.length) parts.push(section("Reasons", list(found.reasons)));
    const left = section("Clip", pairs({
      Task: found.row.task, Source: file(found.source_uri, found.links.source), Result: file(found.output_uri, found.links.result),
      Masks: file(found.masks_uri, found.links.masks), Windows: count(found.windows),
      "GPU time": fixed(found.gpu_s, 1) + " s" + (found.predicted_gpu_s ? `, predicted ${fixed(found.predicted_gpu_s, 1)} s` : ""),
      Time: found.seconds === null || found.seconds === undefined ? null : fixed(found.seconds, 1) + " s",
      "Copied frames": found.copied_frames ? count(found.copied_frames) : null, Runs: found.runs,
      Ended: found.finished_at ? found.finished_at.slice(0, 19).replace("T", " ") + " UTC" : null,
    }));
    const asked = { ...found.row };
    for (const name of ["job_id", "video_uri", "task"]) delete asked[name];
    const columns = make("div", { class: "columns" }, left, section("Asked for", pairs(asked)));
    if (found.notes.length) columns.append(section("Notes", list(found.notes)));
    if (Object.keys(found.metrics).length) {
      columns.append(section("Measured", pairs(Object.fromEntries(Object.entries(found.metrics)
        .map(([name, value]) => [name, typeof value === "number" ? fixed(value, 3) : value])))));
    }
    if (Object.keys(found.settings).length) columns.append(section("Settings", pairs(flat(found.settings))));
    parts.push(columns);
    const attempts = found.attempts.attempts || [];
    if (attempts.length) parts.push(section("Attempts", attemptsTable(attempts, found.attempts.chosen)));
    if (attempts.length > 1) parts.push(section("Measured in every attempt", measuredTable(attempts)));
    if (found.window_rows.length) {
      const body = found.window_rows.map((row) => [row.region, `${row.start}–${row.stop - 1}`, row.num_frames, `${row.width}×${row.height}`, row.seed, row.seconds]);
      const more = found.windows > body.length ? make("p", { class: "faint" }, `The first ${count(body.length)} of ${count(found.windows)}.`) : null;
      parts.push(section("Windows", small(["Region", "Frames", "Generated", "Size", "Seed", "GPU-s"], body), more));
    }
    return parts;
  }

  const differing = (objects) => [...new Set(objects.flatMap(Object.keys))]
    .filter((name) => new Set(objects.map((one) => JSON.stringify(one[name] ?? null))).size > 1);

  function attemptsTable(attempts, chosen) {
    const settings = attempts.map((one) => one.settings || {}), names = differing(settings);
    const said = (value) => (value === null || value === undefined ? "" : plain(value));
    return small(["Attempt", ...names.map((name) => name.replaceAll("_", " ")), "Verdict", "Score", "GPU-s", "Reasons", "Kept"], attempts.map((one, at) => [
      one.remedy ?? String(at + 1), ...names.map((name) => said(settings[at][name])), one.verdict ? badge(one.verdict) : "", one.score ?? "",
      one.gpu_s ?? "", one.error || (one.reasons || []).join("; "), at === chosen ? "kept" : ""]));
  }

  function measuredTable(attempts) {
    const names = [...new Set(attempts.flatMap((one) => Object.keys(one.metrics || {})))];
    return small(["Check", ...attempts.map((one, at) => one.remedy ?? String(at + 1))],
      names.map((name) => [name, ...attempts.map((one) => one.metrics?.[name] ?? "")]));
  }

  function flat(object, before = "") {
    return Object.entries(object).reduce((found, [name, value]) => {
      if (value && typeof value === "object" && !Array.isArray(value)) return { ...found, ...flat(value, before + name + ".") };
      return Array.isArray(value) && !value.length ? found : { ...found, [before + name]: value };
    }, {});
  }

  // --- before and after -------------------------------------------------------------------------------------------------

  const media = { before: null, after: null, rate: 25 };
  const videos = () => [media.before, media.after].filter((one) => one instanceof HTMLVideoElement);

  function showMedia(found) {
    videos().forEach((video) => video.pause());
    const preview = found.preview || {};
    media.rate = preview.rate || 25;
    media.files = {
      before: [preview.before || found.links.source, preview.before_poster],
      mask: [preview.mask, preview.mask_poster],
      after: [preview.after || found.links.result, preview.after_poster],
    };
    $("show-mask").disabled = !preview.mask && !preview.mask_poster;
    $("media-note").textContent = preview.note || "";
    fill("before", $("show-mask").checked && !$("show-mask").disabled ? "mask" : "before");
    fill("after", "after");
    $("seek").value = 0;
    playing();
  }

  function fill(pane, what) {
    const box = $("pane-" + pane).querySelector(".picture"), [video, poster] = media.files[what];
    const name = pane === "before" ? (what === "mask" ? "Before, with the mask" : "Before") : "After";
    $("pane-" + pane).querySelector("figcaption").textContent = name;
    const still = () => {
      const picture = poster ? make("img", { src: poster, alt: name }) : make("p", {}, noPicture(what));
      if (poster) picture.onload = () => { box.style.aspectRatio = `${picture.naturalWidth} / ${picture.naturalHeight}`; };
      box.replaceChildren(picture);
      media[pane] = picture;
      playing();
    };
    if (!video) { still(); return; }
    const player = make("video", { preload: "auto", playsinline: "", poster: poster || null, "aria-label": name });
    player.muted = true;
    player.onerror = still;
    player.onloadedmetadata = () => {
      if (!player.videoWidth) { still(); return; }
      box.style.aspectRatio = `${player.videoWidth} / ${player.videoHeight}`;
      playing();
    };
    player.onplay = player.onpause = player.onended = playing;
    player.ontimeupdate = follow;
    player.src = video;
    box.replaceChildren(player);
    media[pane] = player;
  }

  function noPicture(what) {
    if (what === "after" && clip && !clip.output_uri) return "No result";
    return "This browser cannot show the file. vace-batch report OUT --previews 200 makes previews that every browser can show.";
  }

  const leader = () => videos().find((one) => one.duration > 0) || null;

  function follow() {
    const first = leader();
    if (!first) return;
    for (const other of videos()) {
      if (other !== first && Math.abs(other.currentTime - first.currentTime) > (first.paused ? 0.001 : 0.06)) other.currentTime = first.currentTime;
    }
    $("seek").value = Math.round(1000 * first.currentTime / first.duration);
    const seconds = first.currentTime;
    $("time").textContent = `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
  }

  function playing() {
    const first = leader(), is = Boolean(first) && !first.paused && !first.ended;
    $("play").textContent = is ? "Pause" : "Play";
    for (const id of ["play", "step-back", "step-on", "seek"]) $(id).disabled = !first;
    follow();
  }

  function play() {
    const first = leader();
    if (!first) return;
    if (!first.paused && !first.ended) { videos().forEach((video) => video.pause()); return; }
    if (first.ended) seekTo(0);
    videos().forEach((video) => { video.play().catch(() => {}); });
  }

  function seekTo(seconds) {
    for (const video of videos()) video.currentTime = Math.min(Math.max(seconds, 0), video.duration || 0);
  }

  function step(by) {
    const first = leader();
    if (!first) return;
    videos().forEach((video) => video.pause());
    seekTo(first.currentTime + by / media.rate);
  }

  function showMask() {
    const first = leader(), at = first ? first.currentTime : 0, was = first && !first.paused;
    fill("before", $("show-mask").checked ? "mask" : "before");
    if (media.before instanceof HTMLVideoElement) {
      media.before.addEventListener("loadeddata", (event) => {
        event.target.currentTime = at;
        if (was) event.target.play().catch(() => {});
      }, { once: true });
    }
  }

  function layout(how) {
    document.querySelector(`input[name=layout][value=${how}]`).checked = true;
    $("stage").className = "stage " + how;
    $("wipe-label").hidden = how !== "wipe";
    wipe();
  }

  function wipe() {
    const on = $("stage").classList.contains("wipe");
    $("pane-after").querySelector(".picture").style.clipPath = on ? `inset(0 0 0 ${$("wipe").value}%)` : "";
  }

  // --- review -----------------------------------------------------------------------------------------------------------

  const storeName = () => "vace-batch-review/" + meta.report;
  const decisionOf = (jobId) => (Object.hasOwn(decisions, jobId) ? decisions[jobId].decision : "");

  function readDecisions() {
    decisions = Object.create(null);
    try {
      for (const [jobId, one] of Object.entries(JSON.parse(localStorage.getItem(storeName()) || "{}"))) decisions[jobId] = one;
    } catch { $("export-text").textContent = "This browser stores nothing; export the decisions before you leave."; }
  }

  function keepDecisions() {
    try { localStorage.setItem(storeName(), JSON.stringify(decisions)); } catch { $("export-text").textContent = "This browser stores nothing; export the decisions before you leave."; }
    countDecisions();
  }

  function countDecisions() {
    $("review-count").textContent = count(Object.values(decisions).filter((one) => one.decision).length);
  }

  function decide(decision) {
    document.querySelector(`input[name=decision][value="${decision}"]`).checked = true;
    saveDecision();
  }

  function saveDecision() {
    if (!clip) return; // a note's change comes after its clip was left
    const decision = document.querySelector("input[name=decision]:checked").value, note = $("note").value;
    $("redo-with").disabled = decision !== "redo";
    if (!decision && !note) delete decisions[clip.job_id];
    else decisions[clip.job_id] = { decision, note, redo_with: $("redo-with").value, at: new Date().toISOString() };
    keepDecisions();
  }

  function showDecision() {
    const one = Object.hasOwn(decisions, clip.job_id) ? decisions[clip.job_id] : { decision: "", note: "", redo_with: "seed" };
    document.querySelector(`input[name=decision][value="${one.decision === "accept" || one.decision === "redo" ? one.decision : ""}"]`).checked = true;
    $("note").value = one.note;
    $("redo-with").value = one.redo_with;
    $("redo-with").disabled = one.decision !== "redo";
  }

  function showReview() {
    const all = Object.entries(decisions);
    const redo = all.filter(([, one]) => one.decision === "redo").length, accept = all.filter(([, one]) => one.decision === "accept").length;
    const judged = rows.verdict.filter((word) => word === "review" || word === "fail").length;
    $("review-text").textContent = `${count(accept)} accepted, ${count(redo)} to redo` + (judged ? `; ${count(judged)} clips have a verdict that asks for a look.` : ".");
    const label = { seed: "another seed", wider: "a wider mask", hull: "the mask's hull", box: "the mask's box", same: "the same settings" };
    $("decisions").replaceChildren(...all.map(([jobId, one]) => make("tr", {},
      make("td", {}, make("a", { href: "#clip/" + encodeURIComponent(jobId) }, jobId)),
      make("td", {}, one.decision ? badge(one.decision) : ""), make("td", {}, one.decision === "redo" ? label[one.redo_with] || "" : ""),
      make("td", {}, one.note), make("td", { class: "number" }, String(one.at).slice(0, 16).replace("T", " ")))));
    if (!all.length) $("decisions").append(make("tr", {}, make("td", { colspan: 5, class: "faint" }, "Nothing yet. Open a clip, press a or r.")));
    for (const id of ["export-csv", "export-json", "forget"]) $(id).disabled = !all.length;
    $("export-manifest").disabled = !redo;
    show("review");
  }

  const CHANGES = {
    same: () => ({}),
    seed: (row) => ({ seed: (row.seed ?? 0) + 1 }),
    wider: (row) => ({ dilate: wider(row.dilate || (row.mask_uri && !row.targets && !row.boxes && !row.points ? "4px" : "6px")) }),
    hull: () => ({ mask_shape: "hull" }),
    box: () => ({ mask_shape: "box" }),
  };

  function wider(dilate) {
    const [, size, unit] = /^([\d.e+-]+)(.*)$/.exec(dilate);
    return `${2.5 * Number(size)}${unit}`;
  }

  async function redoRows() {
    const found = [];
    for (const [jobId, one] of Object.entries(decisions)) {
      const number = numbers.get(jobId);
      if (one.decision !== "redo" || number === undefined) continue;
      const { row } = await details_of(number);
      found.push({ ...row, ...(CHANGES[one.redo_with] || CHANGES.seed)(row) });
    }
    return found;
  }

  async function exportManifest() {
    const found = await redoRows();
    const names = meta.columns.filter((name) => found.some((row) => Object.hasOwn(row, name)));
    const cell = (value) => (value === null || value === undefined ? "" : quoted(typeof value === "object" ? JSON.stringify(value) : String(value)));
    save("redo.csv", "text/csv", [names.join(","), ...found.map((row) => names.map((name) => cell(row[name])).join(","))].join("\n") + "\n");
    $("export-text").textContent = `redo.csv: ${count(found.length)} rows`;
  }

  const quoted = (text) => '"' + text.replaceAll('"', '""') + '"';
  // A spreadsheet would take these for formulas.
  const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? "'" + text : text);

  function exportCsv() {
    const lines = Object.entries(decisions).map(([jobId, one]) => [jobId, one.decision, one.redo_with, one.note, one.at].map((text) => quoted(harmless(String(text)))).join(","));
    save("decisions.csv", "text/csv", ["job_id,decision,redo_with,note,at", ...lines].join("\n") + "\n");
    $("export-text").textContent = `decisions.csv: ${count(lines.length)} rows`;
  }

  function exportJson() {
    save("decisions.json", "application/json", JSON.stringify({ out: meta.out, report: meta.report, decisions }, null, 1) + "\n");
    $("export-text").textContent = `decisions.json: ${count(Object.keys(decisions).length)} clips`;
  }

  async function importJson(chosenFile) {
    try {
      const given = JSON.parse(await chosenFile.text()).decisions;
      let taken = 0;
      for (const [jobId, one] of Object.entries(given)) {
        if (!numbers.has(jobId) || !["accept", "redo", ""].includes(one.decision)) continue;
        decisions[jobId] = { decision: one.decision, note: String(one.note ?? ""), redo_with: Object.hasOwn(CHANGES, one.redo_with) ? one.redo_with : "seed", at: String(one.at ?? "") };
        taken += 1;
      }
      keepDecisions();
      showReview();
      $("export-text").textContent = `${count(taken)} decisions taken over`;
    } catch { $("export-text").textContent = "The file holds no decisions."; }
  }

  function save(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type })), link = make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // --- views and keys ---------------------------------------------------------------------------------------------------

  function show(view) {
    for (const name of ["summary", "clip", "review"]) $("view-" + name).hidden = name !== view;
    for (const name of ["summary", "review"]) {
      const on = name === view || (name === "summary" && view === "clip");
      if (on) $("nav-" + name).setAttribute("aria-current", name === view ? "page" : "true"); else $("nav-" + name).removeAttribute("aria-current");
    }
    if (view !== "clip") {
      videos().forEach((video) => video.pause());
      clip = null;
      document.title = `${meta.name} · vace-batch report`;
    }
  }

  function route() {
    const hash = location.hash;
    if (hash.startsWith("#clip/")) {
      let jobId = "";
      try { jobId = decodeURIComponent(hash.slice(6)); } catch { /* not ours */ }
      showClip(jobId).catch((error) => { $("found").textContent = error.message; show("summary"); });
      return;
    }
    if (hash === "#review") { showReview(); return; }
    const last = clip && clip.job_id;
    show("summary");
    if (hash.startsWith("#clips?")) {
      const asked = new URLSearchParams(hash.slice(7));
      for (const name of [...FILTERS, "tried"]) $("filter-" + name).value = asked.get(name) ?? "";
      changed();
    } else showRows();
    if (hash.startsWith("#clips")) $("clips").scrollIntoView();
    if (last) rowLinks().find((link) => link.textContent === last)?.focus();
  }

  const keysOn = () => $("keys-on").checked;
  const LIST_KEYS = { j: () => moveInList(1), k: () => moveInList(-1), "[": () => page > 0 && turn(page - 1, true), "]": () => turn(page + 1, true) };
  const CLIP_KEYS = {
    j: () => moveInClips(1), k: () => moveInClips(-1), " ": play, ",": () => step(-1), ".": () => step(1),
    m: () => { if (!$("show-mask").disabled) { $("show-mask").checked = !$("show-mask").checked; showMask(); } },
    s: () => layout($("stage").classList.contains("wipe") ? "side" : "wipe"),
    a: () => decide("accept"), r: () => decide("redo"), u: () => decide(""), n: () => $("note").focus(),
  };

  function onKey(event) {
    const at = event.target, typing = at.matches("input[type=search], textarea, select");
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.key === "Escape") {
      if (typing) at.blur();
      else if (clip || !$("view-review").hidden) location.hash = "#clips";
      return;
    }
    if (typing || !keysOn()) return;
    if (event.key === " " && at.matches("button, a, input, label")) return;
    const keys = clip ? CLIP_KEYS : $("view-summary").hidden ? {} : LIST_KEYS;
    const act = event.key === "?" ? () => $("help").showModal() : event.key === "/" ? focusSearch : Object.hasOwn(keys, event.key) ? keys[event.key] : null;
    if (act) { event.preventDefault(); act(); }
  }

  function focusSearch() {
    if ($("view-summary").hidden) location.hash = "#clips";
    setTimeout(() => $("search").focus());
  }

  function listen() {
    let waiting = 0;
    $("search").oninput = () => { clearTimeout(waiting); waiting = setTimeout(changed, 80); };
    $("filters").onsubmit = (event) => { event.preventDefault(); changed(); };
    for (const name of [...FILTERS, "tried", "review"]) $("filter-" + name).onchange = changed;
    $("clear").onclick = () => { $("filters").reset(); sorted = { by: null, down: false }; changed(); };
    for (const th of document.querySelectorAll("#table th")) {
      th.firstChild.onclick = () => {
        const by = th.dataset.sort, first = th.classList.contains("number");
        sorted = sorted.by === by ? { by, down: !sorted.down } : { by, down: first };
        changed();
      };
    }
    $("page-first").onclick = () => turn(0);
    $("page-previous").onclick = () => turn(page - 1);
    $("page-next").onclick = () => turn(page + 1);
    $("page-last").onclick = () => turn(Infinity);
    $("clip-previous").onclick = () => moveInClips(-1);
    $("clip-next").onclick = () => moveInClips(1);
    $("play").onclick = play;
    $("step-back").onclick = () => step(-1);
    $("step-on").onclick = () => step(1);
    $("seek").oninput = () => { const first = leader(); if (first) seekTo(first.duration * $("seek").value / 1000); };
    $("wipe").oninput = wipe;
    $("show-mask").onchange = showMask;
    for (const radio of document.querySelectorAll("input[name=layout]")) radio.onchange = () => layout(radio.value);
    $("decision").onsubmit = (event) => event.preventDefault();
    $("decision").onchange = saveDecision;
    $("note").oninput = saveDecision;
    $("export-manifest").onclick = () => exportManifest().catch((error) => { $("export-text").textContent = error.message; });
    $("export-csv").onclick = exportCsv;
    $("export-json").onclick = exportJson;
    $("import").onchange = () => $("import").files[0] && importJson($("import").files[0]);
    $("forget").onclick = () => { if (confirm("Forget all decisions of this report?")) { decisions = Object.create(null); keepDecisions(); showReview(); } };
    $("help-button").onclick = () => $("help").showModal();
    document.addEventListener("keydown", onKey);
    window.addEventListener("hashchange", route);
  }

  async function start() {
    await load("data/meta.js");
    readDecisions();
    countDecisions();
    for (const name of meta.searched) rows[name] = [];
    const files = Math.ceil(meta.clips / meta.index_rows);
    for (let number = 0; number < files; number++) {
      await load(dataName("index", number));
      if (number === 0) { choose(); showRows(); }
      indexed = number + 1;
    }
    fillFilters();
    changed();
    listen();
    route();
    document.documentElement.dataset.ready = String(indexed);
  }

  start().catch((error) => { $("found").textContent = `The data of this report cannot be read: ${error.message}`; });
})();
