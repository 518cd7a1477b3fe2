// Draws the figures of the page from its own data. No request leaves the page.
(() => {
  'use strict';
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read('report-data');
  const images = read('report-images');
  const tip = document.getElementById('tip');

  // Plotly takes texts for a kind of HTML; ours are plain.
  const plain = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
  const axis = (title, more) => ({
    title: { text: plain(title), standoff: 8, font: { size: 12 } }, automargin: true, showline: true, linecolor: '#444',
    ticks: 'outside', tickcolor: '#444', gridcolor: '#e3e3e3', zeroline: false, ...more,
  });

  const SYMBOLS = {
    circle: '<circle cx="6" cy="6" r="4.5"/>', square: '<path d="M2 2h8v8h-8z"/>',
    diamond: '<path d="M6 0.5 11.5 6 6 11.5 0.5 6z"/>', 'triangle-up': '<path d="M6 1 11 10.5H1z"/>',
  };
  const DASHES = { solid: '', dash: '6 4', dot: '2 3', dashdot: '7 3 2 3' };

  function swatch(trace) {
    if (trace.mode === 'markers') {
      const shape = SYMBOLS[trace.marker.symbol || 'circle'];
      return `<svg width="12" height="12" aria-hidden="true" fill="${trace.marker.color}">${shape}</svg>`;
    }
    const dash = DASHES[trace.line.dash];
    const marker = trace.mode === 'lines' ? '' : SYMBOLS[trace.marker.symbol];
    return `<svg width="32" height="12" aria-hidden="true" fill="${trace.line.color}">` +
      `<line x1="0" x2="32" y1="6" y2="6" stroke-width="2.5" stroke="${trace.line.color}" ` +
      `stroke-dasharray="${dash}"/><g transform="translate(10 0)">${marker}</g></svg>`;
  }

  // Below the figure, where it covers no data and breaks its lines; an entry switches its line off.
  function legend(list, canvas, traces) {
    traces.forEach((trace, i) => {
      if (trace.type !== 'scatter' || !trace.name) return;
      const button = document.createElement('button');
      button.type = 'button';
      button.setAttribute('aria-pressed', 'true');
      button.innerHTML = swatch(trace);
      button.append(trace.name);
      button.addEventListener('click', () => {
        const shown = button.getAttribute('aria-pressed') === 'false';
        button.setAttribute('aria-pressed', String(shown));
        Plotly.restyle(canvas, { visible: shown }, [i]);
      });
      const item = document.createElement('li');
      item.append(button);
      list.append(item);
    });
  }

  function showImage(canvas, point) {
    const image = tip.querySelector('img');
    image.hidden = point.customdata === undefined || point.customdata === null;
    if (!image.hidden) image.src = images[point.customdata];
    tip.querySelector('span').textContent = point.data.text[point.pointNumber];
    tip.hidden = false;
    const box = canvas.getBoundingClientRect();
    const x = box.left + window.scrollX + point.xaxis._offset + point.xaxis.l2p(point.x);
    const y = box.top + window.scrollY + point.yaxis._offset + point.yaxis.l2p(point.y);
    const right = document.documentElement.clientWidth + window.scrollX - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4, Math.min(x + 12, right))}px`;
    const above = y - tip.offsetHeight - 12;
    tip.style.top = `${above > window.scrollY ? above : y + 12}px`;
  }

  async function draw(name, figure) {
    const element = document.getElementById(name);
    const canvas = element.querySelector('.canvas');
    const traces = figure.traces.map((trace) => (
      trace.name ? { ...trace, name: plain(trace.name) } : { ...trace }
    ));
    const pictures = traces.some((trace) => trace.customdata);
    if (pictures) traces.forEach((trace) => { trace.hoverinfo = 'none'; });
    const { xaxis, yaxis, ...more } = figure.layout;
    await Plotly.newPlot(canvas, traces, {
      autosize: true, showlegend: false, hovermode: 'closest', dragmode: 'zoom',
      margin: { l: 60, r: 16, t: 28, b: 48 }, hoverlabel: { namelength: -1 },
      paper_bgcolor: '#fff', plot_bgcolor: '#fff',
      font: { family: 'system-ui, sans-serif', size: 12, color: '#1a1a1a' },
      ...more, xaxis: axis(figure.x, xaxis), yaxis: axis(figure.y, yaxis),
    }, { responsive: true, displaylogo: false,
      // Its default is a button that sends the data away.
      showSendToCloud: false, modeBarButtonsToRemove: ['select2d', 'lasso2d'],
    });
    legend(element.querySelector('.legend'), canvas, figure.traces);
    if (pictures) {
      canvas.on('plotly_hover', (event) => showImage(canvas, event.points[0]));
      canvas.on('plotly_unhover', () => { tip.hidden = true; });
    }
  }

  document.getElementById('download').addEventListener('click', () => {
    const link = document.createElement('a');
    const text = document.getElementById('report-data').textContent;
    link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
    link.download = 'report.json';
    link.click();
  });

  window.reportReady = (async () => {
    for (const [name, figure] of Object.entries(data.figures)) await draw(name, figure);
    document.documentElement.dataset.drawn = String(Object.keys(data.figures).length);
  })();
})();
