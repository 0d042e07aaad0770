// The paper: strokes of a pen, kept as points so that one can be taken back, sent as a PNG after each of them.
// `element`, `props` and `trigger` are gradio's. The PNG is the value and not the event's data: of events that have to
// wait, gradio sends the first one's data and the last one's value.
const canvas = element.querySelector("canvas");
const hint = element.querySelector("span");
let strokes = [];

// digits as a pen writes them, in a box of 10 by 16
const DIGITS = {
    0: [[5, 0, 1, 3, 0, 8, 1, 13, 5, 16, 9, 13, 10, 8, 9, 3, 5, 0]],
    1: [[2, 4, 6, 0, 6, 16]],
    2: [[1, 3, 4, 0, 8, 1, 9, 4, 7, 8, 0, 16, 10, 15]],
    3: [[1, 1, 6, 0, 9, 3, 7, 6, 4, 7, 8, 9, 9, 12, 6, 16, 0, 15]],
    4: [[3, 0, 0, 9, 10, 9], [8, 2, 7, 16]],
    5: [[9, 0, 2, 0, 1, 7, 6, 6, 9, 9, 9, 13, 5, 16, 0, 15]],
    6: [[8, 0, 3, 4, 0, 10, 1, 15, 5, 16, 8, 13, 7, 9, 3, 9, 1, 11]],
    7: [[0, 0, 10, 0, 4, 16]],
    8: [[8, 3, 5, 0, 1, 3, 8, 10, 8, 14, 4, 16, 1, 13, 9, 3]],
    9: [[9, 3, 5, 0, 1, 3, 2, 7, 6, 7, 9, 3, 8, 16]],
};

function paint(onto, ratio) {
    const width = canvas.clientWidth, height = canvas.clientHeight, pen = onto.getContext("2d");
    onto.width = ratio * width;
    onto.height = ratio * height;
    pen.scale(ratio, ratio);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.lineWidth = Math.max(7, height / 26);
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = "#111";
    for (const points of strokes) {
        pen.beginPath();
        pen.moveTo(...points[0]);
        for (const [at, [x, y]] of points.entries()) {
            const [nextX, nextY] = points[at + 1] ?? [x, y];
            pen.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
        }
        pen.lineTo(...points.at(-1));
        pen.stroke();
    }
}

function draw() {
    paint(canvas, window.devicePixelRatio);
    hint.hidden = strokes.length > 0;
}

function send() {
    draw();
    const copy = document.createElement("canvas");
    paint(copy, 0.5); // finer than what is left after preparation, whose time goes with the pixels
    props.value = strokes.length ? copy.toDataURL("image/png") : "";
    trigger("drawn");
}

function place(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    strokes.push([place(event)]);
    draw();
});
canvas.addEventListener("pointermove", (event) => {
    if (!event.isPrimary || !canvas.hasPointerCapture(event.pointerId)) return;
    strokes.at(-1).push(...event.getCoalescedEvents().map(place), place(event));
    draw();
});
canvas.addEventListener("lostpointercapture", send);

element.querySelector(".undo").addEventListener("click", () => (strokes.pop(), send()));
element.querySelector(".clear").addEventListener("click", () => ((strokes = []), send()));
for (const button of element.querySelectorAll("[data-rows]")) {
    button.addEventListener("click", () => {
        const rows = button.dataset.rows.split("/");
        const longest = Math.max(...rows.map((digits) => digits.length));
        // of a box's unit; boxes stand 5 apart, 6 from above and below
        const size = Math.min(canvas.clientHeight / rows.length / 28, canvas.clientWidth / (15 * longest + 5));
        strokes = [];
        for (const [row, digits] of rows.entries()) {
            const left = (canvas.clientWidth - size * (15 * digits.length - 5)) / 2;
            const top = (canvas.clientHeight * (row + 0.5)) / rows.length - 8 * size;
            for (const [at, digit] of [...digits].entries())
                for (const stroke of DIGITS[digit]) {
                    const points = [];
                    for (let point = 0; point < stroke.length; point += 2)
                        points.push([left + size * (15 * at + stroke[point]), top + size * stroke[point + 1]]);
                    strokes.push(points);
                }
        }
        send();
    });
}
new ResizeObserver(draw).observe(canvas);
