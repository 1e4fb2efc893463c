const TINT = "rgb(255, 32, 144)";
const STEP = 0.003;  // minimum distance between two points, as a fraction of the photo's longer side
const sheets = new WeakMap();  // by parent element: Streamlit calls the component again at every rerun

function element(kind, properties, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function made(parentElement) {
  const photo = element("img", { alt: "The photo", draggable: false });
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The marked part of the photo");
  const ring = element("div", { className: "ring" });
  const paper = element("div", { className: "paper" }, photo, canvas, ring);
  const base = new Image();
  const sheet = { drawing: { photo: 0, base: 0, strokes: [], soft: 0, changes: 0 }, source: "", base: "", say: () => {} };
  let stroke = null, erases = false, width = 0.1;

  function draw() {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (sheet.base && base.complete && base.naturalWidth) pen.drawImage(base, 0, 0, canvas.width, canvas.height);
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = TINT;
    for (const { points, width, erases } of stroke ? [...sheet.drawing.strokes, stroke] : sheet.drawing.strokes) {
      pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
      pen.lineWidth = Math.max(1, width * Math.max(canvas.width, canvas.height));
      pen.beginPath();
      pen.moveTo(points[0][0] * canvas.width, points[0][1] * canvas.height);
      for (const [x, y] of points) pen.lineTo(x * canvas.width, y * canvas.height);
      pen.stroke();
    }
    pen.globalCompositeOperation = "source-over";
    soften();
    undo.disabled = clear.disabled = !sheet.drawing.strokes.length;
  }
  function soften() {
    const box = paper.getBoundingClientRect();
    canvas.style.filter = sheet.drawing.soft ? `blur(${sheet.drawing.soft * Math.max(box.width, box.height)}px)` : "";
  }
  function say() {
    sheet.drawing = { ...sheet.drawing, changes: sheet.drawing.changes + 1 };
    sheet.say(sheet.drawing);
  }
  function change(strokes) { sheet.drawing = { ...sheet.drawing, strokes }; draw(); say(); }

  function place(event) {
    const box = paper.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
      .map((part) => Math.round(1e4 * Math.min(2, Math.max(-1, part))) / 1e4);
  }
  function follow(event) {
    const box = paper.getBoundingClientRect(), side = width * Math.max(box.width, box.height);
    Object.assign(ring.style, { width: `${side}px`, height: `${side}px`, display: "block",
      left: `${event.clientX - box.left - side / 2}px`, top: `${event.clientY - box.top - side / 2}px` });
  }
  paper.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button) return;
    paper.setPointerCapture(event.pointerId);
    stroke = { points: [place(event)], width, erases };
    follow(event);
    draw();
  });
  paper.addEventListener("pointermove", (event) => {
    follow(event);
    if (!stroke || !event.isPrimary) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(each), last = stroke.points.at(-1);
      if (Math.hypot(next[0] - last[0], next[1] - last[1]) > STEP && stroke.points.length < 5000)
        stroke.points.push(next);
    }
    draw();
  });
  paper.addEventListener("pointerup", (event) => {
    if (!stroke || !event.isPrimary) return;
    const drawn = stroke;
    stroke = null;
    change([...sheet.drawing.strokes, drawn]);
  });
  paper.addEventListener("pointercancel", () => { stroke = null; draw(); });  // a second finger zooms
  paper.addEventListener("pointerleave", () => { ring.style.display = "none"; });

  const button = (textContent, onclick) => element("button", { type: "button", textContent, onclick });
  const choose = (erasing) => {
    erases = erasing;
    draws.setAttribute("aria-pressed", !erasing);
    eraser.setAttribute("aria-pressed", erasing);
  };
  const draws = button("Draw", () => choose(false)), eraser = button("Erase", () => choose(true));
  const undo = button("Undo", () => change(sheet.drawing.strokes.slice(0, -1)));
  const clear = button("Clear", () => change([]));
  choose(false);
  const size = element("input", { type: "range", min: 1, max: 40, value: 100 * width });
  size.oninput = () => { width = size.value / 100; };
  const soft = element("input", { type: "range", min: 0, max: 10, step: 0.5 });
  soft.oninput = () => { sheet.drawing = { ...sheet.drawing, soft: soft.value / 100 }; soften(); };
  soft.onchange = say;

  parentElement.append(element("div", { className: "brush" },
    element("div", { className: "bar" }, draws, eraser, undo, clear), paper,
    element("div", { className: "bar sliders" },
      element("label", { textContent: "Brush size" }, size), element("label", { textContent: "Soft edge" }, soft))));
  photo.onload = () => { canvas.width = photo.naturalWidth; canvas.height = photo.naturalHeight; draw(); };
  base.onload = draw;
  new ResizeObserver(soften).observe(paper);

  sheet.show = (data) => {
    const other = data.photo !== sheet.source, { base: under, soft: edge, changes } = data.drawing;
    const newer = other || changes > sheet.drawing.changes;  // an earlier element told the server more
    if (newer) sheet.drawing = data.drawing;
    else if (under !== sheet.drawing.base) sheet.drawing = { ...sheet.drawing, base: under, soft: edge };
    soft.value = 100 * sheet.drawing.soft;
    if (other) sheet.source = photo.src = data.photo;
    if (data.base !== sheet.base) sheet.base = base.src = data.base;
    draw();
  };
  return sheet;
}

export default function ({ data, parentElement, setStateValue }) {
  if (!sheets.has(parentElement)) sheets.set(parentElement, made(parentElement));
  const sheet = sheets.get(parentElement);
  sheet.say = (drawing) => setStateValue("drawing", drawing);
  sheet.show(data);
}
