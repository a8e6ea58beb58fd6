// Unpack what the page carries, then build both halves. Nothing is asked of the network, nor could it be.

async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return { bytes: ([offset, length]) => new Uint8Array(buffer, offset, length) };
}

async function main() {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const canvas = document.getElementById("scene"), hint = document.getElementById("hint");
  let stage = null;
  try {
    stage = await Stage.open(canvas, payload, await unpack(document.getElementById("block").textContent));
    hint.textContent = "drag: turn · right drag or shift: move · wheel: zoom · arrow keys: views";
  } catch (error) {
    hint.textContent = error.message;
  }
  document.body.classList.toggle("flat", Boolean(stage) && !stage.worthShowing);
  new Panel(payload, stage);
  stage?.draw();
  if (!payload.views.length) document.body.dataset.state = "ready";
}

main();
